"""Applying a flush, which changes the first block of each of its keys, in one or two launches.

An entry is a word (tag and block id). All three changes exchange one word for another by
compare-and-swap: EMPTY for the entry's word (enter), one word for another (replace), or the word for
EMPTY (erase). The kernel searches for the exact word and reads no key, so that a block which is erased and entered
again under another key in one flush cannot confuse it. An entry is counted in the headers of the buckets that
it passes afterwards: who reads these counters in the same launch looks only for what was counted before. Relaxed
atomics are enough: each word is independent of the others, and the end of the launch publishes all of them.
"""

from typing import Any

import triton
import triton.language as tl

from kvgpu import layout
from kvgpu.kernels.primitives.atomics import compare_and_swap
from kvgpu.kernels.primitives.kernel import kernel
from kvgpu.kernels.primitives.records import BUCKET, LANES, load_bucket, load_key, store_record
from kvgpu.kernels.primitives.slot_hash import COUNTER_FULL, bucket_of, counter_unit, slot_hash, word_of
from kvgpu.kernels.view import TableView

EMPTY = tl.constexpr(layout.EMPTY_WORD)
SLOTS = tl.constexpr(layout.SLOTS_PER_BUCKET)
OVERFLOW = tl.constexpr(layout.OVERFLOW_WORD)
SIZE = tl.constexpr(layout.META_SIZE)
STATUS = tl.constexpr(layout.META_STATUS)
GATE = tl.constexpr(layout.META_GATE)
TABLE_FULL = tl.constexpr(layout.STATUS_TABLE_FULL)
WORD_NOT_FOUND = tl.constexpr(layout.STATUS_WORD_NOT_FOUND)

LEAVE = 1
"""Phase: erase and replace."""
ENTER = 2
"""Phase: enter."""
MAX_PROGRAMS = 4096
"""Of one launch: as many as an H100 runs at a time."""
LEAVING = tl.constexpr(LEAVE)
ENTERING = tl.constexpr(ENTER)


@triton.jit
def swap_words(words, h, expected, desired, todo, num_buckets):
    """Exchange each lane's exact word for another, searching from its primary bucket on.

    Returns which lanes succeeded, and how many buckets each of them passed before. A lane that fails has either
    passed all buckets, or come to one that no entry with its counter has passed.
    """
    bucket = bucket_of(h, num_buckets)
    counter = counter_unit(h) * COUNTER_FULL
    passed = tl.zeros_like(bucket)
    done = todo & (passed > 0)
    while tl.max(todo.to(tl.int32)) > 0:
        # Volatile: the first-level cache could hold words that other programs have changed since.
        w0, w1, w2, w3, w4, w5, w6, header = load_bucket(words, bucket, todo, True)
        slot = tl.where(w6 == expected, 6, SLOTS)
        slot = tl.where(w5 == expected, 5, slot)
        slot = tl.where(w4 == expected, 4, slot)
        slot = tl.where(w3 == expected, 3, slot)
        slot = tl.where(w2 == expected, 2, slot)
        slot = tl.where(w1 == expected, 1, slot)
        slot = tl.where(w0 == expected, 0, slot)
        ready = todo & (slot < SLOTS)
        seen = compare_and_swap(words + bucket * BUCKET + slot, expected, desired, ready)
        done = done | (ready & (seen == expected))
        # An entry is counted in all buckets that it has passed until it is taken out, whatever changes meanwhile.
        further = todo & (slot == SLOTS) & ((expected == EMPTY) | (header & counter != 0))
        passed += further.to(tl.int64)
        bucket = tl.where(further, bucket + 1, bucket)
        bucket = tl.where(bucket == num_buckets, 0, bucket)
        todo = (ready & (seen != expected)) | (further & (passed < num_buckets))
    return done, passed


@triton.jit
def count_overflow(words, h, delta, passed, num_buckets):
    """Add `delta` to each lane's counter in the first `passed` buckets that it visited; a full one stays full."""
    bucket = bucket_of(h, num_buckets)
    unit = counter_unit(h)
    full = unit * COUNTER_FULL
    left = tl.where(delta != 0, passed, 0)
    # What a lane takes its header to be: at first 0, and then what the exchange before has seen.
    header = tl.zeros_like(h)
    while tl.max(left) > 0:
        todo = left > 0
        seen = compare_and_swap(words + bucket * BUCKET + OVERFLOW, header, header + delta * unit, todo)
        counted = todo & ((seen == header) | (seen & full == full))
        header = tl.where(counted, 0, seen)
        bucket = tl.where(counted, bucket + 1, bucket)
        bucket = tl.where(bucket == num_buckets, 0, bucket)
        left -= counted.to(tl.int64)


@triton.jit
def apply_changes(
    words, records, keys, groups, old, new, i, active, num_buckets, seed, phases, KEY_WORDS: tl.constexpr
):
    """Apply change `i` of each active lane; return by how many keys it has grown the table, and a status."""
    before = tl.load(old + i, mask=active, other=-1)
    after = tl.load(new + i, mask=active, other=-1)
    group = tl.load(groups + i, mask=active, other=0)
    k0, k1, k2, k3 = load_key(keys + i * KEY_WORDS, active, KEY_WORDS)
    entering = active & (before < 0) & (after >= 0)
    leaving = active & (before >= 0) & (before != after)
    todo = leaving & (phases & LEAVING != 0) | entering & (phases & ENTERING != 0)
    store_record(records, after, k0, k1, k2, k3, group, todo & (after >= 0), KEY_WORDS)
    h = slot_hash(k0, k1, k2, k3, group, seed)
    expected = tl.where(before >= 0, word_of(h, before), EMPTY)
    desired = tl.where(after >= 0, word_of(h, after), EMPTY)
    done, passed = swap_words(words, h, expected, desired, todo, num_buckets)
    delta = (desired != EMPTY).to(tl.int64) - (expected != EMPTY).to(tl.int64)
    delta = tl.where(done, delta, 0)
    count_overflow(words, h, delta, passed, num_buckets)
    failed = todo & (done == 0)
    status = tl.where(failed & entering, TABLE_FULL, 0) | tl.where(failed & leaving, WORD_NOT_FOUND, 0)
    return delta, status


@kernel("words", "records", "keys")
def update_kernel(
    words,
    records,
    meta,
    keys,
    groups,
    old,
    new,
    count: tl.int64,
    num_buckets: tl.int64,
    seed: tl.int64,
    phases: tl.int32,
    KEY_WORDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Apply change i: under `keys[i]` in `groups[i]`, block `old[i]` was first, and `new[i]` is first from now on.

    keys int64 [count, KEY_WORDS], unique together with groups int32 [count]; old, new int32
    [count], -1 for none. phases: LEAVE, ENTER or both. Writes nothing if the gate is closed.
    """
    gate = tl.load(meta + GATE)
    first = tl.program_id(0).to(tl.int64) * BLOCK
    grown = tl.zeros([BLOCK], tl.int64)
    status = tl.zeros([BLOCK], tl.int32)
    while first < count:
        i = first + tl.arange(0, BLOCK)
        active = (i < count) & (gate == 0)
        delta, found = apply_changes(
            words, records, keys, groups, old, new, i, active, num_buckets, tl.cast(seed, tl.int64), phases, KEY_WORDS
        )
        grown += delta
        status |= found
        first += tl.num_programs(0).to(tl.int64) * BLOCK
    # One number for all programs: each adds to it once, however many changes it has made.
    total = tl.sum(grown)
    if total != 0:
        tl.atomic_add(meta + SIZE, total, sem="relaxed")
    failed = tl.max(status & TABLE_FULL) | tl.max(status & WORD_NOT_FOUND)
    if failed != 0:
        tl.atomic_or(meta + STATUS, failed.to(tl.int64), sem="relaxed")


def phases_of(table: TableView, count: int) -> tuple[int, ...]:
    """Return the phases of each launch for `count` changes: one launch if the table has room for all of them to enter.

    Otherwise entries must be erased in an earlier launch, or a program that looks for room could wait for one
    that has not been started.
    """
    roomy = 10 * (table.num_blocks + count) <= 9 * layout.SLOTS_PER_BUCKET * table.num_buckets
    return (LEAVE | ENTER,) if roomy else (LEAVE, ENTER)


def launch_update(table: TableView, keys: Any, groups: Any, old: Any, new: Any) -> None:
    """Start the kernels of one flush on the current stream; if there are no keys, launch nothing.

    Args:
        table: The table.
        keys: int64 [n, key_words], unique together with their groups.
        groups: int32 [n].
        old: int32 [n], the blocks that are first now, -1 for none.
        new: int32 [n], the blocks that become first, -1 for none.
    """
    count = len(keys)
    if not count:
        return
    grid = (min(triton.cdiv(count, LANES), MAX_PROGRAMS),)
    for phases in phases_of(table, count):
        update_kernel[grid](
            table.words,
            table.records,
            table.meta,
            keys,
            groups,
            old,
            new,
            count,
            table.num_buckets,
            table.seed,
            phases,
            KEY_WORDS=table.key_words,
            BLOCK=LANES,
            num_warps=1,
        )
