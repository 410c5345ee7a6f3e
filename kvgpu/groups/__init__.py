"""Cache groups: one file per kind of attention."""
