"""The index in CPU memory."""
