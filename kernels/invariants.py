"""Checking a table on the device: every entry is reachable, no key occurs twice, and counts are right."""

from typing import Any

import triton
import triton.language as tl

from kvgpu import layout
from kvgpu.kernels.find import find_blocks
from kvgpu.kernels.primitives.kernel import kernel
from kvgpu.kernels.primitives.records import BUCKET, LANES, load_key
from kvgpu.kernels.primitives.slot_hash import COUNTERS, LOW, bucket_of, counter_of, slot_hash, upper_half
from kvgpu.kernels.update import SLOTS
from kvgpu.kernels.view import TableView

BAD_WORD = 0
WRONG_TAG = 1
UNREACHABLE = 2
KEY_TWICE = 3
ENTRIES = 4
VIOLATION_WORDS = 8


@kernel("words", "records")
def entries_kernel(
    words,
    records,
    overflow,
    uses,
    violations,
    num_buckets: tl.int64,
    num_blocks: tl.int64,
    seed: tl.int64,
    KEY_WORDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Check every slot of the table.

    The caller zeroes overflow, uses and violations before. overflow int32 [num_buckets, 8]: for each counter of each
    bucket, the number of entries that it has to count. uses int32 [num_blocks]: for each block, the number of words
    that name it. violations int64 [8]: words that name no block, wrong tags, entries that a lookup cannot reach, keys
    that lead to another entry, number of entries.
    """
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < num_buckets * SLOTS
    bucket = i // SLOTS
    word = tl.load(words + bucket * BUCKET + i % SLOTS, mask=inside, other=0)
    live = word != 0
    row = (word & LOW) - 1
    bad = live & ((row < 0) | (row >= num_blocks))
    live = live & (bad == 0)
    tl.atomic_add(uses + tl.where(live, row, 0), 1, mask=live, sem="relaxed")
    record = records + tl.where(live, row, 0) * (2 * KEY_WORDS)
    k0, k1, k2, k3 = load_key(record, live, KEY_WORDS)
    group = tl.load(record + KEY_WORDS, mask=live, other=0)
    seed = tl.cast(seed, tl.int64)
    h = slot_hash(k0, k1, k2, k3, group, seed)
    wrong_tag = live & (upper_half(word) != (h & LOW))
    first = find_blocks(words, records, k0, k1, k2, k3, group, live, num_buckets, seed, KEY_WORDS)
    lost = live & (first < 0)
    twice = live & (first >= 0) & (first.to(tl.int64) != row)
    at = bucket_of(h, num_buckets)
    walking = live & (at != bucket)
    while tl.max(walking.to(tl.int32)) > 0:
        tl.atomic_add(overflow + at * COUNTERS + counter_of(h), 1, mask=walking, sem="relaxed")
        at = tl.where(at + 1 == num_buckets, 0, at + 1)
        walking = walking & (at != bucket)
    tl.atomic_add(violations + 0, tl.sum(bad.to(tl.int64)), sem="relaxed")
    tl.atomic_add(violations + 1, tl.sum(wrong_tag.to(tl.int64)), sem="relaxed")
    tl.atomic_add(violations + 2, tl.sum(lost.to(tl.int64)), sem="relaxed")
    tl.atomic_add(violations + 3, tl.sum(twice.to(tl.int64)), sem="relaxed")
    tl.atomic_add(violations + 4, tl.sum(live.to(tl.int64)), sem="relaxed")


def launch_entries(table: TableView, overflow: Any, uses: Any, violations: Any) -> None:
    """Start `entries_kernel` on the current stream; the caller must have zeroed the arrays."""
    slots = layout.SLOTS_PER_BUCKET * table.num_buckets
    entries_kernel[(triton.cdiv(slots, LANES),)](
        table.words,
        table.records,
        overflow,
        uses,
        violations,
        table.num_buckets,
        table.num_blocks,
        table.seed,
        KEY_WORDS=table.key_words,
        BLOCK=LANES,
        num_warps=1,
    )


def violations_in_words(counts: list[int], size: int, miscounted: int, used_twice: int) -> list[str]:
    """Describe what the counts of `entries_kernel` show, one sentence each; none for a sound table."""
    said = [
        (counts[BAD_WORD], "words name no block"),
        (counts[WRONG_TAG], "words have the tag of another key"),
        (counts[UNREACHABLE], "entries cannot be reached"),
        (counts[KEY_TWICE], "entries have the key of another"),
        (used_twice, "blocks are in the table twice"),
        (miscounted, "buckets count their overflows wrong"),
    ]
    found = [f"{count} {what}" for count, what in said if count]
    if counts[ENTRIES] != size:
        found.append(f"{counts[ENTRIES]} entries, but {size} are counted")
    return found
