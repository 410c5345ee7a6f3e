"""What is hashed: token ids and extra keys."""
