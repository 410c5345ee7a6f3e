"""Checking a flush before it is applied: a batch that contradicts itself or the table closes the gate.

A batch is entered in three sets of the batch's size, which use open addressing with linear probing in scratch
memory: its keys, the blocks that become first and the blocks that leave. Nothing is removed, so of two equal members
the later one meets the earlier one before an empty slot, in whatever order lanes run.
"""

from typing import Any

import triton
import triton.language as tl

from kvgpu import layout
from kvgpu.kernels.find import find_blocks
from kvgpu.kernels.primitives.kernel import kernel
from kvgpu.kernels.primitives.records import LANES, load_key
from kvgpu.kernels.primitives.slot_hash import LOW, slot_hash, upper_half
from kvgpu.kernels.view import TableView

NEVER = tl.constexpr(layout.NEVER)
STATUS = tl.constexpr(layout.META_STATUS)
GATE = tl.constexpr(layout.META_GATE)
BAD_BLOCK_ID = tl.constexpr(layout.STATUS_BAD_BLOCK_ID)
BAD_GROUP = tl.constexpr(layout.STATUS_BAD_GROUP)
KEY_TWICE = tl.constexpr(layout.STATUS_KEY_TWICE)
BLOCK_TWICE = tl.constexpr(layout.STATUS_BLOCK_TWICE)
WRONG_OLD = tl.constexpr(layout.STATUS_WRONG_OLD)
MULTIPLIER = tl.constexpr(layout.HASH_MULTIPLIER)


@triton.jit
def slot_of(block, size):
    """Return the first slot of a block in a set of `size` slots, a power of two."""
    return upper_half(block.to(tl.int64) * MULTIPLIER) & (size - 1)


@triton.jit
def enter_block(slots, block, todo, size):
    """Enter each lane's block in a set; return which blocks were already in it."""
    slot = slot_of(block, size)
    twice = todo & (block < 0)
    while tl.max(todo.to(tl.int32)) > 0:
        # atomic_cas takes no mask, so idle lanes compare with a value that never occurs.
        seen = tl.atomic_cas(slots + slot, tl.where(todo, 0, NEVER), block + 1, sem="relaxed")
        equal = seen == block + 1
        twice = twice | (todo & equal)
        todo = todo & (seen != 0) & (equal == 0)
        slot = (slot + 1) & (size - 1)
    return twice


@triton.jit
def has_block(slots, block, todo, size):
    """Return which lanes' blocks are in a set; nothing may change the set meanwhile."""
    slot = slot_of(block, size)
    found = todo & (block < 0)
    while tl.max(todo.to(tl.int32)) > 0:
        seen = tl.load(slots + slot, mask=todo, other=0)
        equal = seen == block + 1
        found = found | (todo & equal)
        todo = todo & (seen != 0) & (equal == 0)
        slot = (slot + 1) & (size - 1)
    return found


@triton.jit
def enter_key(slots, row, keys, groups, h, k0, k1, k2, k3, group, todo, size, KEY_WORDS: tl.constexpr):
    """Enter each lane's row in a set of keys; return which rows have a key that was already in it."""
    slot = (h & LOW) & (size - 1)
    twice = todo & (row < 0)
    while tl.max(todo.to(tl.int32)) > 0:
        seen = tl.atomic_cas(slots + slot, tl.where(todo, 0, NEVER), row + 1, sem="relaxed")
        todo = todo & (seen != 0)
        other = tl.where(todo, seen - 1, 0).to(tl.int64)
        o0, o1, o2, o3 = load_key(keys + other * KEY_WORDS, todo, KEY_WORDS)
        equal = (o0 == k0) & (o1 == k1) & (o2 == k2) & (o3 == k3)
        equal = equal & (tl.load(groups + other, mask=todo, other=-1) == group)
        twice = twice | (todo & equal)
        todo = todo & (equal == 0)
        slot = (slot + 1) & (size - 1)
    return twice


@triton.jit
def close_gate(meta, status):
    """Record what is wrong with a batch, so that it is not applied."""
    if status != 0:
        tl.atomic_or(meta + STATUS, status.to(tl.int64), sem="relaxed")
        tl.atomic_or(meta + GATE, tl.cast(1, tl.int64), sem="relaxed")


@kernel("words", "records", "keys")
def validate_kernel(
    words,
    records,
    meta,
    keys,
    groups,
    old,
    new,
    sets,
    count: tl.int64,
    size: tl.int64,
    num_buckets: tl.int64,
    num_blocks: tl.int64,
    seed: tl.int64,
    verifies_old: tl.int32,
    KEY_WORDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Check that ids and groups are in range, and that no key and no block occurs twice.

    If `verifies_old` is not 0, also check that the blocks in `old` are first. Arguments as in `update_kernel`; sets
    int32 [3, size], which the caller has zeroed: keys, new blocks, leaving blocks.
    """
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    active = i < count
    before = tl.load(old + i, mask=active, other=-1)
    after = tl.load(new + i, mask=active, other=-1)
    group = tl.load(groups + i, mask=active, other=0)
    k0, k1, k2, k3 = load_key(keys + i * KEY_WORDS, active, KEY_WORDS)
    bad_id = (before < -1) | (before >= num_blocks) | (after < -1) | (after >= num_blocks)
    bad_group = group < 0
    sane = active & (bad_id == 0) & (bad_group == 0)
    seed = tl.cast(seed, tl.int64)
    h = slot_hash(k0, k1, k2, k3, group, seed)
    row = i.to(tl.int32)
    key_twice = enter_key(sets, row, keys, groups, h, k0, k1, k2, k3, group, sane, size, KEY_WORDS)
    block_twice = enter_block(sets + size, after, sane & (after >= 0), size)
    leaving = sane & (before >= 0) & (before != after)
    block_twice = block_twice | enter_block(sets + 2 * size, before, leaving, size)
    status = tl.max(tl.where(bad_id, BAD_BLOCK_ID, 0))
    status |= tl.max(tl.where(bad_group, BAD_GROUP, 0))
    status |= tl.max(tl.where(key_twice, KEY_TWICE, 0))
    status |= tl.max(tl.where(block_twice, BLOCK_TWICE, 0))
    if verifies_old != 0:
        first = find_blocks(words, records, k0, k1, k2, k3, group, sane, num_buckets, seed, KEY_WORDS)
        status |= tl.max(tl.where(sane & (first != before), WRONG_OLD, 0))
    close_gate(meta, status)


@kernel("words", "records")
def homes_kernel(
    words,
    records,
    meta,
    old,
    new,
    leaving,
    count: tl.int64,
    size: tl.int64,
    num_buckets: tl.int64,
    num_blocks: tl.int64,
    seed: tl.int64,
    KEY_WORDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Check that no block becomes first while it stays first under another key, the one in its record.

    leaving int32 [size], from `validate_kernel`.
    """
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    active = i < count
    before = tl.load(old + i, mask=active, other=-1)
    after = tl.load(new + i, mask=active, other=-1)
    entering = active & (after >= 0) & (after < num_blocks) & (after != before)
    record = records + tl.where(entering, after, 0).to(tl.int64) * (2 * KEY_WORDS)
    k0, k1, k2, k3 = load_key(record, entering, KEY_WORDS)
    group = tl.load(record + KEY_WORDS, mask=entering, other=0)
    seed = tl.cast(seed, tl.int64)
    first = find_blocks(words, records, k0, k1, k2, k3, group, entering, num_buckets, seed, KEY_WORDS)
    inside = entering & (first == after)
    stays = inside & (has_block(leaving, after, inside, size) == 0)
    close_gate(meta, tl.max(tl.where(stays, BLOCK_TWICE, 0)))


def launch_validate(
    table: TableView, keys: Any, groups: Any, old: Any, new: Any, sets: Any, verifies_old: bool, replaces: bool
) -> None:
    """Start the checks of one flush on the current stream; if there are no keys, launch nothing.

    Args:
        table: The table; its gate must be open.
        keys, groups, old, new: As in `launch_update`.
        sets: int32 [3, size], zeros; `set_size` gives the size.
        verifies_old: Whether to verify `old`, because it was not just looked up in the table.
        replaces: Whether the table is emptied first, so that nothing in it can contradict the batch.
    """
    count, size = len(keys), sets.shape[1]
    if not count:
        return
    grid = (triton.cdiv(count, LANES),)
    validate_kernel[grid](
        table.words,
        table.records,
        table.meta,
        keys,
        groups,
        old,
        new,
        sets,
        count,
        size,
        table.num_buckets,
        table.num_blocks,
        table.seed,
        int(verifies_old and not replaces),
        KEY_WORDS=table.key_words,
        BLOCK=LANES,
        num_warps=1,
    )
    if not replaces:
        homes_kernel[grid](
            table.words,
            table.records,
            table.meta,
            old,
            new,
            sets[2],
            count,
            size,
            table.num_buckets,
            table.num_blocks,
            table.seed,
            KEY_WORDS=table.key_words,
            BLOCK=LANES,
            num_warps=1,
        )


def set_size(count: int) -> int:
    """Return the number of slots for a set of `count` blocks or keys: a power of two, at most half full."""
    return 1 << max(0, 2 * count - 1).bit_length()
