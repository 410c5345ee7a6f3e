"""The plan of a lookup as words: what is looked up in all cache groups. `kvgpu.rules.plan` makes them."""

PLAN_NUM_QUERIES = 0
PLAN_ONE_PASS = 1
PLAN_REACH = 2
"""Tokens beyond the longest hit allowed that a lookup may read, because it drops a block."""
PLAN_NUM_CUT = 3
"""Queries, from the first on, whose hits are cut to the common one: all of them are for full attention."""
PLAN_HEADER = 4
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
QUERY_MARGIN = 9
"""Tokens beyond the hit to be verified that a query which drops a block looks at."""
QUERY_UNIT = 10
"""Tokens of the parts of a block that a hit may end with; those of a block if hits end with a block."""
QUERY_WORDS = 11
FULL = 0
SLIDING_WINDOW = 1
CHUNKED_LOCAL = 2
MAMBA = 3
