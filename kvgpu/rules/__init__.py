"""Rules of hits, retention and allocation, each stated once."""
