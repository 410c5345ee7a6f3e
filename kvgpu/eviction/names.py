"""Names of orders of eviction, for those who choose one: reading them compiles nothing."""

from kvgpu.errors import UnknownNameError

LRU = "lru"
EVICTIONS = (LRU, "slru", "lfu", "s3fifo", "arc", "tinylfu", "tail-first", "queue-aware", "cost")
"""`lru` is the order of the queue of free blocks itself, which vLLM has. The others are files of
`kvgpu.eviction.policies`."""


def check_eviction(name: str) -> None:
    """Check that there is an order of eviction of this name. O(1).

    Raises:
        UnknownNameError: There is none.
    """
    if name not in EVICTIONS:
        raise UnknownNameError("order of eviction", name, list(EVICTIONS))
