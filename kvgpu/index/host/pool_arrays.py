"""`PoolArrays`: the blocks of a pool and the host's index of them, as compiled code takes them."""

from typing import Any, NamedTuple


class PoolArrays(NamedTuple):
    """Arrays of one pool.

    Python passes them to a compiled function as a plain tuple: Numba takes 2 us more to unpack a NamedTuple than to
    take the same values one by one, and 0.1 to 0.3 us more to unpack a tuple. The function begins with
    ``pool = PoolArrays(*pool)``, which costs nothing there.
    """

    records: Any
    """BLOCK_RECORD [blocks + 1]."""
    table: Any
    """int64 [buckets, BUCKET_WORDS]."""
    seed: int
    """Of the slot hash."""
    log: Any
    """int64 [notes, LOG_WORDS], of the journal; `NO_LOG` without one."""
    null_id: int
    """Id of the null block."""
    meta: Any
    """int64, see `kvgpu.blocks.index_meta`."""
