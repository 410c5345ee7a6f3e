"""The record of a block: 64 bytes, and what its flags say."""

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]

BLOCK_RECORD = np.dtype(
    [
        ("k0", "<i8"),
        ("k1", "<i8"),
        ("k2", "<i8"),
        ("k3", "<i8"),
        ("group", "<i4"),
        ("flags", "<i4"),
        ("ref_cnt", "<i4"),
        ("prev", "<i4"),
        ("next", "<i4"),
        ("same_prev", "<i4"),
        ("same_next", "<i4"),
        ("successor", "<i4"),
    ]
)
"""k0..k3: block hash, 16-byte hashes padded with 0. prev, next: neighbours in the free queue, -1
outside it. same_prev, same_next: ring of the blocks with the same key; same_prev of a LED block is the
block that leads to it. successor: the block that was cached after this one, a hint to be verified."""

CACHE_LINE = 64
assert BLOCK_RECORD.itemsize == CACHE_LINE

HAS_HASH = 1
"""The block has a hash (in the record, or in a side store when ODD)."""

IN_TABLE = 2
"""The index holds the block."""

FIRST = 4
"""The block is the first inserted of those with its key: the one a lookup returns."""

SHARED = 8
"""Two blocks had this key at the same time: `_cache` shows a dict from then on (fact 12)."""

ODD = 16
"""The hash is of another width than the pool's; it lies in `odd_hashes` and not in the index."""

COARSE = 32
"""The block spans several hash blocks: the record's key is the last of them, all are in `coarse`."""

LED, LEADS = 64, 128
"""The index holds the block without a word in its table: one that LEADS has it as its successor. See
`kvgpu.index.host.insert_runs`."""

COUNTED = 256
"""The filter of the table counts the key of this block, the first with it."""

SEEN = 512
"""Set for the length of one compiled pass: the block has come by already."""

NO_IDS: Ids = np.empty(0, np.int32)

ENTERED = IN_TABLE | FIRST | SHARED | LED | LEADS | COUNTED
"""The flags that belong to the index."""
