"""`PoolArrays`: the blocks of a pool and the host's index of them, as compiled code takes them."""

from typing import Any, NamedTuple

import numpy as np

from kvgpu.blocks.free_order import USE
from kvgpu.blocks.record import BLOCK_RECORD
from kvgpu.compiled.handle import IDS, WORDS, array_at, lines_at
from kvgpu.compiled.jit import inline
from kvgpu.index.journal import LOG_WORDS
from kvgpu.layout import BUCKET_WORDS

RECORDS, USES, ORDER, QUEUE, TABLE, LOG, META = range(7)
"""Arrays of the handle of a pool, in order."""
SEED, NULL_ID, POOL_WORDS = 14, 15, 16
"""Its numbers: words. POOL_WORDS: of the handle."""

_RECORD, _USE = np.empty(0, BLOCK_RECORD), np.empty(0, USE)


class PoolArrays(NamedTuple):
    """Arrays of one pool.

    Python passes them to a compiled function as a plain tuple: Numba takes 2 us more to unpack a NamedTuple than to
    take the same values one by one, and 0.1 to 0.3 us more to unpack a tuple. The function begins with
    ``pool = PoolArrays(*pool)``, which costs nothing there.
    """

    records: Any
    """BLOCK_RECORD [blocks + 1]."""
    uses: Any
    order: Any
    queue_words: Any
    """As in `FreeQueue`."""
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


@inline
def pool_at(handle: Any) -> PoolArrays:
    """Return the arrays that the handle of a pool stands for."""
    return PoolArrays(
        array_at(handle, 2 * RECORDS, _RECORD),
        array_at(handle, 2 * USES, _USE),
        array_at(handle, 2 * ORDER, IDS),
        array_at(handle, 2 * QUEUE, WORDS),
        lines_at(handle, 2 * TABLE, WORDS, BUCKET_WORDS),
        handle[SEED],
        lines_at(handle, 2 * LOG, WORDS, LOG_WORDS),
        handle[NULL_ID],
        array_at(handle, 2 * META, WORDS),
    )
