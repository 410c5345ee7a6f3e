"""Section `keys` of a snapshot: which blocks are found under which keys."""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kvgpu.blocks.free_order import OUTSIDE
from kvgpu.blocks.record import COARSE, FIRST, LED, MEASURED, SHARED, Ids
from kvgpu.coordinators.base import KVCacheCoordinator
from kvgpu.hashing.functions import HASH_WIDTHS
from kvgpu.hashing.map_keys import GROUP_ID_BYTES, BlockHashWithGroupId
from kvgpu.index.base import BlockIndex
from kvgpu.integers import MOST_TOKENS
from kvgpu.layout import KEY_WORDS, MAX_GROUP_ID
from kvgpu.snapshot import odd_keys
from kvgpu.snapshot.archive import Arrays
from kvgpu.snapshot.fields import Fields, unique
from kvgpu.snapshot.freed_pool import FreedPool
from kvgpu.snapshot.odd_keys import OddKey, number_of

WORD_BYTES = 8


class Entries(NamedTuple):
    """Keys that records hold; those that are equal come in the order in which they find their blocks.

    words: int64 [n, KEY_WORDS]. blocks, groups, numbers: int32 [n], see `OddKey`. tokens: int64 [n], that a block's own
    key covers, or -1. shared: uint8 [n], whether two blocks have had the key at the same time. coarse: the hashes of a
    block of several hash blocks, which its key shows; empty for others.
    """

    width: int
    words: npt.NDArray[np.int64]
    blocks: Ids
    groups: Ids
    numbers: Ids
    tokens: npt.NDArray[np.int64]
    shared: npt.NDArray[np.uint8]
    coarse: list[bytes]

    def key(self, place: int) -> BlockHashWithGroupId:
        """Return a key as bytes. O(1)."""
        block_hash = self.coarse[place] or self.words[place].tobytes()[: self.width]
        return BlockHashWithGroupId(block_hash + int(self.groups[place]).to_bytes(GROUP_ID_BYTES, "big"))


def _runs(heads: Ids, successors: Ids) -> list[int]:
    """Return the blocks so that each comes after the one before it in a prompt, as far as that is known. O(heads)."""
    after = dict(zip(heads.tolist(), successors[heads].tolist(), strict=True))
    led = set(after.values())
    seen: set[int] = set()
    order = []
    for row in (*(row for row in after if row not in led), *after):
        while row in after and row not in seen:
            seen.add(row)
            order.append(row)
            row = after[row]
    return order


def _rows_in_order(index: BlockIndex) -> Ids:
    """Return the rows that the index holds: by group, and those that are not the first with their key at the end."""
    records = index.state.records[:-1]
    heads = np.flatnonzero(records["flags"] & FIRST).astype(np.int32)
    firsts = _runs(heads, records["successor"])
    is_led = records["flags"][heads] & LED != 0
    chained = heads[(records["same_next"][heads] != heads) & ~is_led]
    rest = [row for head in chained.tolist() for row in index.chain(head)[1:]]
    rows = np.array([*firsts, *rest], np.int32)
    is_rest = np.arange(len(rows)) >= len(firsts)
    return rows[np.lexsort((is_rest, records["group"][rows]))]


def written(coordinator: KVCacheCoordinator, freed: FreedPool) -> Arrays:
    """Return the arrays of the section. Expected O(blocks)."""
    pool, state = coordinator.block_pool, coordinator.block_pool.state
    rows = _rows_in_order(pool.index)
    numbers = np.zeros(len(rows), np.int32)
    owners = rows.copy()
    for place in np.flatnonzero(rows > state.num_blocks).tolist():
        row = int(rows[place])
        owners[place] = owner = state.aliases.owner(row)
        numbers[place] = number_of(pool, owner, state.key_of(row) or b"")
    kept = numbers >= 0
    rows, owners, numbers = rows[kept], owners[kept], numbers[kept]
    records, width = state.records[rows], state.width or 0
    flags = records["flags"]
    coarse = [b""] * len(rows)
    for place in np.flatnonzero(flags & COARSE).tolist():
        blob, start, stop = state.coarse[int(rows[place])]
        coarse[place] = blob[start:stop]
    lengths = np.array([len(each) for each in coarse], np.int32)
    return {
        "width": np.array([width], np.int32),
        "hashes": np.ascontiguousarray(records.view(np.uint8).reshape(len(rows), records.itemsize)[:, :width]),
        "blocks": owners,
        "groups": records["group"].copy(),
        "numbers": numbers,
        "tokens": np.where(flags & MEASURED, records["num_tokens"], -1),
        "shared": (flags & SHARED != 0).astype(np.uint8),
        "coarse_lengths": lengths,
        "coarse_bytes": np.frombuffer(b"".join(coarse), np.uint8),
        **odd_keys.written(pool),
    }


def checked(fields: Fields, coordinator: KVCacheCoordinator, now: int) -> Callable[[], None]:
    """Return what caches the blocks in an unused pool.

    Raises:
        SnapshotError: The keys cannot be those of free blocks of such a pool.

    O(blocks log blocks).
    """
    pool, state = coordinator.block_pool, coordinator.block_pool.state
    entries, odd = _read(fields, state.num_rows), odd_keys.checked(fields, state.num_blocks)
    owners = np.concatenate([entries.blocks, np.array([each.block_id for each in odd], np.int32)])
    numbers = np.concatenate([entries.numbers, np.array([each.number for each in odd], np.int32)])
    if len(owners) and not pool.enable_caching:
        raise fields.error("blocks are cached, which this manager does not do")
    if ((owners < 0) | (owners >= state.num_blocks)).any() or (state.free.uses["place"][owners] == OUTSIDE).any():
        raise fields.error("a block is none of those that can be cached")
    if not unique(owners[numbers == 0]):
        raise fields.error("a block has two keys of its own")
    if np.count_nonzero(entries.numbers) > max(0, len(state.aliases.owners) - state.num_blocks - 1):
        raise fields.error("there are more aliases than the pool has rows for")
    _check_coarse(fields, coordinator, entries)
    aliases = _aliases(fields, entries, odd, owners, numbers)
    return lambda: _enter(coordinator, entries, odd, aliases)


def _read(fields: Fields, most: int) -> Entries:
    """Read what records hold; only single values are checked."""
    width = int(fields.numbers("width", np.int32, 0, max(HASH_WIDTHS), 1)[0])
    blocks = fields.take("blocks", np.int32)
    count = len(blocks)
    if count > most or width not in HASH_WIDTHS | {0} or (count and not width):
        raise fields.error(f"there are {count} hashes of {width} bytes")
    words = np.zeros((count, WORD_BYTES * KEY_WORDS), np.uint8)
    words[:, :width] = fields.take("hashes", np.uint8, (count, width))
    return Entries(
        width,
        words.view("<i8"),
        blocks,
        fields.numbers("groups", np.int32, 0, MAX_GROUP_ID, count),
        fields.numbers("numbers", np.int32, 0, MOST_TOKENS, count),
        fields.numbers("tokens", np.int64, -1, MOST_TOKENS, count),
        fields.numbers("shared", np.uint8, 0, 1, count),
        fields.pieces("coarse_bytes", fields.numbers("coarse_lengths", np.int32, 0, MOST_TOKENS, count)),
    )


def _check_coarse(fields: Fields, coordinator: KVCacheCoordinator, entries: Entries) -> None:
    """Check that exactly the blocks of several hash blocks show hashes, as many as they have, and their key last."""
    unit, joins = coordinator.hash_block_size, not coordinator.behaviour.keys_by_last_hash
    strides = [size // unit if joins else 1 for size in coordinator.group_block_sizes]
    for place in np.flatnonzero([bool(each) for each in entries.coarse]).tolist():
        group, shown = int(entries.groups[place]), entries.coarse[place]
        stride = strides[group] if group < len(strides) else 1
        last = entries.words[place].tobytes()[: entries.width]
        if stride == 1 or len(shown) != stride * entries.width or not shown.endswith(last) or entries.numbers[place]:
            raise fields.error("the hashes of a block of several hash blocks are not as many, or not its own")


def _aliases(
    fields: Fields, entries: Entries, odd: list[OddKey], owners: Ids, numbers: Ids
) -> dict[int, list[BlockHashWithGroupId]]:
    """Return the aliases of blocks in order, after checking that all keys of a block are different and numbered."""
    known: dict[int, dict[int, BlockHashWithGroupId]] = {int(block_id): {} for block_id in owners[numbers > 0]}
    for place in np.flatnonzero(np.isin(owners, list(known))).tolist():
        key = entries.key(place) if place < len(entries.blocks) else odd[place - len(entries.blocks)].key
        number, keys = int(numbers[place]), known[int(owners[place])]
        if number in keys or key in keys.values():
            raise fields.error("a block has a key twice")
        keys[number] = key
    if any(sorted(keys) != list(range(len(keys))) for keys in known.values()):
        raise fields.error("the keys of a block are not numbered")
    return {block_id: [keys[number] for number in range(1, len(keys))] for block_id, keys in known.items()}


def _enter(
    coordinator: KVCacheCoordinator, entries: Entries, odd: list[OddKey], aliases: dict[int, list[BlockHashWithGroupId]]
) -> None:
    """Cache the blocks. Expected O(blocks)."""
    pool, state, further = (
        coordinator.block_pool,
        coordinator.block_pool.state,
        coordinator.block_pool.prefix_cache.further,
    )
    records, state.width = state.records, entries.width or None
    further.aliases.update(aliases)
    rows = entries.blocks.copy()
    is_alias = entries.numbers > 0
    for place in sorted(np.flatnonzero(is_alias).tolist(), key=lambda place: int(entries.numbers[place])):
        rows[place] = state.aliases.take(int(rows[place]))
    is_coarse = np.array([bool(each) for each in entries.coarse], np.bool_)
    kinds = 2 * entries.groups.astype(np.int64) + is_coarse
    for begin, end in pairwise([0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(rows)] if len(rows) else []):
        flags = COARSE if is_coarse[begin] else 0
        pool.index.insert(rows[begin:end], entries.words[begin:end], 1, int(entries.groups[begin]), flags)
    for place in np.flatnonzero(is_coarse).tolist():
        state.coarse[int(rows[place])] = (entries.coarse[place], 0, len(entries.coarse[place]))
    records["flags"][rows[entries.shared > 0]] |= SHARED
    measured = (entries.tokens >= 0) & ~is_alias
    records["num_tokens"][rows[measured]] = entries.tokens[measured]
    records["flags"][rows[measured]] |= MEASURED
    for key, block_id, number, num_tokens in odd:
        if number == 0:
            state.set_key(block_id, key)
            if num_tokens >= 0:
                state.measure(block_id, num_tokens)
        pool.prefix_cache.map.insert(key, state.view(block_id))
    further.is_measured = bool(measured.any()) or any(each.num_tokens >= 0 for each in odd)
