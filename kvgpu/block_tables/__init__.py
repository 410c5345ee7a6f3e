"""Block tables: the blocks that each request holds."""
