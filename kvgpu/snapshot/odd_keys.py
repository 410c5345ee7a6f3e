"""`OddKey`: a key that no record of a block holds, such as one of another length; there are seldom any."""

from typing import Any, NamedTuple

import numpy as np

from kvgpu.block_pool import BlockPool
from kvgpu.hashing.map_keys import GROUP_ID_BYTES, BlockHashWithGroupId
from kvgpu.integers import MOST_TOKENS
from kvgpu.snapshot.archive import Arrays
from kvgpu.snapshot.fields import Fields

LONGEST = 1 << 20
"""Bytes of a key, at most."""


class OddKey(NamedTuple):
    """A key beside the records, and the block that is found under it.

    number: 0 for the block's own key, else its place among the aliases, from 1 on. num_tokens: that the block's own key
    covers, or -1 if nobody noted it.
    """

    key: BlockHashWithGroupId
    block_id: int
    number: int
    num_tokens: int


def number_of(pool: BlockPool, block_id: int, key: bytes) -> int:
    """Return the number of a key among those of its block, see `OddKey`; -1 if the block does not know it. O(keys)."""
    if pool.state.key_of(block_id) == key:
        return 0
    aliases = pool.prefix_cache.further.aliases.get(block_id, [])
    return 1 + aliases.index(BlockHashWithGroupId(key)) if key in aliases else -1


def listed(pool: BlockPool) -> list[OddKey]:
    """Return the odd keys of a pool, in the order in which they find blocks. O(them).

    Blocks of other pools, and keys that their blocks do not know, are left out: calls by hand have put them there.
    """
    odd = []
    for key, entry in pool.prefix_cache.map.extras.items():
        for block in entry.values() if isinstance(entry, dict) else [entry]:
            if block._state is pool.state and (number := number_of(pool, block._row, key)) >= 0:
                covered = None if number else block.block_hash_num_tokens
                own_key = BlockHashWithGroupId(key)
                odd.append(OddKey(own_key, block._row, number, -1 if covered is None else covered))
    return odd


def written(pool: BlockPool) -> Arrays:
    """Return odd keys as arrays. O(them)."""
    odd = listed(pool)
    numbers: Any = {
        f"odd_{name}": np.array([getattr(each, field) for each in odd], dtype)
        for name, field, dtype in (
            ("blocks", "block_id", np.int32),
            ("numbers", "number", np.int32),
            ("tokens", "num_tokens", np.int64),
        )
    }
    keys = [each.key for each in odd]
    lengths = np.array([len(key) for key in keys], np.int32)
    return {**numbers, "odd_lengths": lengths, "odd_bytes": np.frombuffer(b"".join(keys), np.uint8)}


def checked(fields: Fields, num_blocks: int) -> list[OddKey]:
    """Read odd keys.

    Raises:
        SnapshotError: They cannot be keys of blocks of a pool. How they agree with other keys is not looked at.

    O(bytes).
    """
    lengths = fields.numbers("odd_lengths", np.int32, GROUP_ID_BYTES, LONGEST)
    keys = map(BlockHashWithGroupId, fields.pieces("odd_bytes", lengths))
    columns = (
        fields.numbers("odd_blocks", np.int32, 0, num_blocks - 1, len(lengths)),
        fields.numbers("odd_numbers", np.int32, 0, MOST_TOKENS, len(lengths)),
        fields.numbers("odd_tokens", np.int64, -1, MOST_TOKENS, len(lengths)),
    )
    return list(map(OddKey, keys, *(column.tolist() for column in columns)))
