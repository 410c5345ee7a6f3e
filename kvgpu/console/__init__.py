"""What the commands share: output files and printable text."""
