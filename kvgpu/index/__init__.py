"""Hash-to-block tables: one protocol, several backends."""
