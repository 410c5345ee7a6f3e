"""The index in GPU memory."""
