"""The record of a block: 64 bytes, and the meaning of its flags."""

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.cache_lines import CACHE_LINE, make_lines

Ids = npt.NDArray[np.int32]

BLOCK_RECORD = np.dtype(
    [
        ("k0", "<i8"),
        ("k1", "<i8"),
        ("k2", "<i8"),
        ("k3", "<i8"),
        ("group", "<i4"),
        ("flags", "<i4"),
        ("same_prev", "<i4"),
        ("same_next", "<i4"),
        ("successor", "<i4"),
        ("further", "<i4"),
        ("num_tokens", "<i8"),
    ]
)
"""What the index knows of a block.

k0..k3: block hash; 16-byte hashes are padded with 0. same_prev, same_next: ring of the blocks with the same key;
same_prev of a LED block is the block that leads to it. successor: the block that was cached after this one, a hint that
must be verified. further: the one that was cached FURTHER blocks after this one, of no meaning but that it may be
loaded. num_tokens: tokens of the prefix that the hash covers, if the block is MEASURED."""

assert BLOCK_RECORD.itemsize == CACHE_LINE

HAS_HASH = 1
"""The block has a hash (in the record, or in a side store if it is ODD)."""

IN_TABLE = 2
"""The index holds the block."""

FIRST = 4
"""The block was inserted first of those with its key: a lookup returns it."""

SHARED = 8
"""Two blocks have had this key at the same time: `_cache` shows a dict from then on (fact 12)."""

ODD = 16
"""The width of the hash is not the pool's width; the hash is stored in `odd_hashes` and not in the index."""

COARSE = 32
"""The block spans several hash blocks: the record holds the last of their hashes, and `coarse` holds all."""

LED, LEADS = 64, 128
"""LED: the index holds the block without a word in its table, because a block that LEADS has it as its successor. See
`kvgpu.index.host.insert_runs`."""

FURTHER = 24
"""Blocks of a request between a block and the one that `further` of its record names."""

COUNTED = 256
"""The filter of the table counts the key of this block, which is the first block with this key."""

SEEN = 512
"""Set only during one compiled pass: the pass has already seen the block."""

NO_IDS: Ids = np.empty(0, np.int32)

MEASURED = 1024
"""The record says how many tokens of a prefix the hash covers, which may be fewer than up to the end of the block."""

ENTERED = IN_TABLE | FIRST | SHARED | LED | LEADS | COUNTED
"""The flags that belong to the index."""


def make_records(count: int) -> npt.NDArray[np.void]:
    """Make zeroed records, each of which lies in one cache line. O(count)."""
    return make_lines(count).view(BLOCK_RECORD).ravel()
