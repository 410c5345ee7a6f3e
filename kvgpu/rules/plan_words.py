"""The plan of a lookup as words: what is looked up in all cache groups. `kvgpu.rules.plan` makes them."""

PLAN_NUM_QUERIES = 0
PLAN_ONE_PASS = 1
PLAN_HEADER = 2
QUERY_KIND = 0
QUERY_BLOCK_SIZE = 1
QUERY_ALIGNMENT = 2
QUERY_DROP = 3
QUERY_EXTENT = 4
QUERY_STRIDE = 5
QUERY_FIRST_LINE = 6
QUERY_NUM_LINES = 7
QUERY_STEP = 8
"""Alignment of hits in blocks: what the alignment in tokens comes to."""
QUERY_WORDS = 9
FULL = 0
SLIDING_WINDOW = 1
CHUNKED_LOCAL = 2
MAMBA = 3
