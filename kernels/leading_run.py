"""The longest cached prefix under full attention in one launch: each request stops at its first miss.

A prompt that is not cached costs one tile. Plans with other rules, or several queries, take two launches
(`kvgpu.kernels.longest_prefix`).
"""

from typing import Any

import triton
import triton.language as tl

from kvgpu import layout
from kvgpu.kernels.decide import BLOCK_SIZE, DROP, HEADER, LONGEST, NUM_LINES, QUERY_WORDS, STEP, STRIDE, query_word
from kvgpu.kernels.find import find_blocks
from kvgpu.kernels.longest_prefix import PrefixBuffers, request_bounds
from kvgpu.kernels.primitives.kernel import kernel
from kvgpu.kernels.primitives.records import load_key
from kvgpu.kernels.view import TableView
from kvgpu.rules.plan import PrefixPlan
from kvgpu.rules.plan_words import FULL

STATUS = tl.constexpr(layout.META_STATUS)
BAD_OFFSETS = tl.constexpr(layout.STATUS_BAD_OFFSETS)

TILE, WARPS = 256, 4
"""Keys that a program looks up together: two a lane."""


@triton.jit
def find_leading_run(
    words,
    records,
    keys,
    stride,
    limit,
    groups,
    num_groups,
    ids,
    line_words,
    write_ids,
    num_buckets,
    seed,
    KEY_WORDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Return how many of a request's first blocks are cached in all of some groups, int32.

    A program handles one request. Reads the keys of one tile beyond the first miss at most. Exact, as `find_blocks` is.

    Args:
        words, records, num_buckets, seed: The table, see `kvgpu.kernels.find.find_blocks`; seed is int64.
        keys: int64, points to the first hash of the request, at a multiple of 16 bytes.
        stride: Hashes of a block, the last of which is looked up.
        limit: int32, most blocks that the run may have.
        groups: int64 [num_groups], points to the groups.
        ids: int32, points to block 0 of the request in the first group's line; `line_words` to the next group's.
        write_ids: Whether ids of the run are written. Blocks behind it get any value, in the tile where it ends.
        BLOCK: Keys looked up together.
    """
    end = limit
    tile = limit * 0
    while tile < end:
        block = tile + tl.arange(0, BLOCK)
        place = (block.to(tl.int64) + 1) * stride - 1
        k0, k1, k2, k3 = load_key(keys + place * KEY_WORDS, block < end, KEY_WORDS)
        for line in range(num_groups):
            active = block < end
            group = tl.load(groups + line) + tl.zeros_like(k0)
            found = find_blocks(words, records, k0, k1, k2, k3, group, active, num_buckets, seed, KEY_WORDS)
            if write_ids != 0:
                tl.store(ids + line * line_words + block, found, mask=active)
            end = tl.minimum(end, tl.min(tl.where(active & (found < 0), block, end)))
        tile += BLOCK
    return end


@kernel("words", "records", "keys")
def leading_run_kernel(
    words,
    records,
    meta,
    plan,
    keys,
    begins,
    ends,
    max_lengths,
    num_tokens,
    firsts,
    lengths,
    ids,
    num_keys: tl.int64,
    longest: tl.int64,
    num_buckets: tl.int64,
    seed: tl.int64,
    write_ids: tl.int32,
    KEY_WORDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Apply a plan of one query, with full attention, to each request; arguments and results as in `decide_kernel`."""
    request = tl.program_id(0)
    begin, length, good = request_bounds(begins, ends, request, num_keys, longest)
    if good:
        allowed = tl.maximum(tl.minimum(tl.load(max_lengths + request), LONGEST), 0).to(tl.int32)
        size = query_word(plan, HEADER, BLOCK_SIZE)
        stride = query_word(plan, HEADER, STRIDE)
        line_words = tl.cast(num_keys, tl.int64)
        lines = query_word(plan, HEADER, NUM_LINES)
        run = find_leading_run(
            words,
            records,
            keys + begin * KEY_WORDS,
            stride,
            tl.minimum(allowed // size, length // stride),
            plan + HEADER + QUERY_WORDS,
            lines,
            ids + begin,
            line_words,
            write_ids,
            num_buckets,
            tl.cast(seed, tl.int64),
            KEY_WORDS,
            BLOCK,
        )
        step = query_word(plan, HEADER, STEP)
        hit = tl.maximum(run - query_word(plan, HEADER, DROP), 0) // step * step
        tl.store(num_tokens + request, hit.to(tl.int64) * size)
        tl.store(firsts + request, hit * 0)
        tl.store(lengths + request, hit)
        if write_ids != 0:
            for line in range(lines):
                for tile in range(hit // BLOCK * BLOCK, length, BLOCK):
                    block = tile + tl.arange(0, BLOCK)
                    at = ids + line * line_words + begin + block
                    tl.store(at, tl.full([BLOCK], -1, tl.int32), mask=(block >= hit) & (block < length))
    else:
        tl.atomic_or(meta + STATUS, tl.cast(BAD_OFFSETS, tl.int64), sem="relaxed")


def launch_leading_run(
    table: TableView, plan: Any, keys: Any, begins: Any, ends: Any, max_lengths: Any, out: PrefixBuffers, longest: int
) -> None:
    """Start `leading_run_kernel` on the current stream, for a plan that `suits`; if there are no requests, nothing."""
    if len(begins):
        leading_run_kernel[(len(begins),)](
            table.words,
            table.records,
            table.meta,
            plan,
            keys,
            begins,
            ends,
            max_lengths,
            out.num_tokens,
            out.firsts,
            out.lengths,
            out.hits if out.ids is None else out.ids,
            len(keys),
            longest,
            table.num_buckets,
            table.seed,
            int(out.ids is not None),
            KEY_WORDS=table.key_words,
            BLOCK=TILE,
            num_warps=WARPS,
        )


def suits(plan: PrefixPlan) -> bool:
    """Whether one launch answers a plan: it has one query, for full attention."""
    return len(plan.queries) == 1 and plan.queries[0].rule.kind == FULL
