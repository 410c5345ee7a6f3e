"""Who is evicted next: one policy a file, over lists of free blocks."""
