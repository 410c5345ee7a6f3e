"""Output files and printable text, shared by the commands."""
