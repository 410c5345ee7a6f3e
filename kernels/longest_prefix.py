"""The longest cached prefix of many requests over all cache groups, in two launches.

`probe_kernel` looks up every pair of group and hash block in parallel, so that the depth of the
dependent loads does not grow with the length of a prompt. `decide_kernel`, with one program per request,
applies the rules to the hits and writes the result.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from kvgpu import layout
from kvgpu.errors import ArgumentError
from kvgpu.kernels.decide import FIRST_LINE, HEADER, NUM_LINES, NUM_QUERIES, QUERY_WORDS, STRIDE, common_hit, query_word
from kvgpu.kernels.find import find_blocks
from kvgpu.kernels.primitives.kernel import kernel
from kvgpu.kernels.primitives.records import LANES, load_key
from kvgpu.kernels.view import TableView

STATUS = tl.constexpr(layout.META_STATUS)
BAD_OFFSETS = tl.constexpr(layout.STATUS_BAD_OFFSETS)

LONGEST = tl.constexpr(layout.MAX_TOKENS)

DECIDE_TILE = 128
MAX_PROGRAMS = 16_384
"""Of one probe, unless there are more requests: some four for each that an H100 runs at a time."""


@triton.jit
def request_bounds(begins, ends, request, num_keys, longest):
    """Return the first key and the number of keys of a request; a span outside the keys has none and is bad."""
    begin = tl.load(begins + request)
    end = tl.load(ends + request)
    good = (begin >= 0) & (end >= begin) & (end <= num_keys)
    length = tl.where(good, tl.minimum(end - begin, longest), 0).to(tl.int32)
    return tl.where(good, begin, 0), length, good


@kernel("words", "records", "keys")
def probe_kernel(
    words,
    records,
    plan,
    keys,
    begins,
    ends,
    hits,
    num_keys: tl.int64,
    longest: tl.int64,
    at_once: tl.int32,
    num_buckets: tl.int64,
    seed: tl.int64,
    KEY_WORDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Set `hits[line, k]` to the first block under key `k` in the line's group, or to -1.

    Grid: requests x queries x `at_once`, in one dimension; so many programs share the tiles of a request. keys int64
    [num_keys, KEY_WORDS]; begins, ends int64 [requests]: span of a request's keys; hits int32 [lines, num_keys]. Only
    the last hash of a block is looked up.
    """
    tile = (tl.program_id(0) % at_once).to(tl.int64)
    rest = tl.program_id(0) // at_once
    num_queries = tl.load(plan + NUM_QUERIES)
    begin, length, _ = request_bounds(begins, ends, rest // num_queries, num_keys, longest)
    base = HEADER + rest % num_queries * QUERY_WORDS
    stride = query_word(plan, base, STRIDE)
    groups = plan + HEADER + num_queries * QUERY_WORDS
    line = query_word(plan, base, FIRST_LINE)
    end_line = line + query_word(plan, base, NUM_LINES)
    while tile * BLOCK * stride < length:
        block = tile * BLOCK + tl.arange(0, BLOCK)
        place = (block.to(tl.int64) + 1) * stride - 1
        active = place < length
        key = begin + place
        k0, k1, k2, k3 = load_key(keys + key * KEY_WORDS, active, KEY_WORDS)
        for at in range(line, end_line):
            group = tl.load(groups + at) + tl.zeros_like(k0)
            found = find_blocks(
                words, records, k0, k1, k2, k3, group, active, num_buckets, tl.cast(seed, tl.int64), KEY_WORDS
            )
            tl.store(hits + at * tl.cast(num_keys, tl.int64) + key, found, mask=active)
        tile += at_once


@kernel()
def decide_kernel(
    plan,
    meta,
    begins,
    ends,
    max_lengths,
    hits,
    num_tokens,
    firsts,
    lengths,
    furthest,
    ids,
    num_keys: tl.int64,
    longest: tl.int64,
    null_id: tl.int32,
    write_ids: tl.int32,
    TILE: tl.constexpr,
):
    """Apply a plan to the hits of each request; one program per request.

    max_lengths int64 [requests], in tokens; values below 0 count as 0. Writes num_tokens int64 [requests]; firsts,
    lengths int32 [requests, queries], in blocks; furthest int64 [requests], in tokens; and, if write_ids is not 0, ids
    int32 [lines, num_keys]: block `i` of a request is at the index of its first key plus `i`, with the null block where
    no block is needed, and -1 after the hit. A request whose keys are out of range sets a status and writes nothing
    else.
    """
    request = tl.program_id(0)
    begin, length, good = request_bounds(begins, ends, request, num_keys, longest)
    num_queries = tl.load(plan + NUM_QUERIES).to(tl.int32)
    if good:
        stride_out = request * num_queries
        allowed = tl.maximum(tl.minimum(tl.load(max_lengths + request), LONGEST), 0).to(tl.int32)
        found = common_hit(
            hits + begin,
            tl.cast(num_keys, tl.int64),
            plan,
            length,
            allowed,
            firsts + stride_out,
            lengths + stride_out,
            furthest + request,
            TILE,
        )
        tl.store(num_tokens + request, found.to(tl.int64))
        if write_ids != 0:
            # One thread has written what all threads read now.
            tl.debug_barrier()
            for q in range(num_queries):
                base = HEADER + q * QUERY_WORDS
                first = tl.load(firsts + stride_out + q)
                end = tl.load(lengths + stride_out + q)
                stride = query_word(plan, base, STRIDE)
                line = query_word(plan, base, FIRST_LINE)
                for at in range(line, line + query_word(plan, base, NUM_LINES)):
                    offset = at * tl.cast(num_keys, tl.int64) + begin
                    for tile in range(0, length, TILE):
                        block = tile + tl.arange(0, TILE)
                        needed = (block >= first) & (block < end)
                        source = offset + (block.to(tl.int64) + 1) * stride - 1
                        found_id = tl.load(hits + source, mask=needed, other=-1)
                        found_id = tl.where(block < first, null_id, found_id)
                        tl.store(ids + offset + block, found_id, mask=block < length)
    else:
        tl.atomic_or(meta + STATUS, tl.cast(BAD_OFFSETS, tl.int64), sem="relaxed")


class PrefixBuffers(NamedTuple):
    """Buffers for the results, on the device of the table.

    num_tokens int64 [requests]: length of the hit. firsts, lengths int32 [requests, queries], in
    blocks: blocks before `firsts` are not needed. furthest int64 [requests]: the longest length in tokens that is
    cached in some groups; the same tensor as num_tokens for a plan of one query for full attention. ids int32 [lines,
    num_keys], or None if no ids are wanted: block `i` of a request is at the index of its first key plus `i`, with the
    null block where no block is needed, and -1 after the hit. hits int32 [lines, num_keys]: scratch memory.
    """

    num_tokens: Any
    firsts: Any
    lengths: Any
    furthest: Any
    ids: Any
    hits: Any


def programs_of(requests: int, longest: int, num_queries: int, block: int) -> int:
    """Return how many programs of one probe share the tiles of a request; each handles `block` keys at a time.

    One for each tile of the longest request, unless that makes so many programs that most of them, which belong to
    shorter requests and have nothing to do, take longer to start than the others to work.

    Raises:
        ArgumentError: There are more programs than a grid can have.
    """
    rows = requests * num_queries
    if rows >= 2**31:
        raise ArgumentError(
            f"{requests} requests and {num_queries} queries are too many for one launch: split the batch"
        )
    return min(-(-longest // block), max(1, MAX_PROGRAMS // max(1, rows)))


def launch_probe(
    table: TableView, plan: Any, keys: Any, begins: Any, ends: Any, hits: Any, longest: int, num_queries: int
) -> None:
    """Start `probe_kernel` for requests of at most `longest` keys on the current stream.

    Raises:
        ArgumentError: There are too many requests for one launch.
    """
    at_once = programs_of(len(begins), longest, num_queries, LANES)
    if at_once and len(begins):
        probe_kernel[(len(begins) * num_queries * at_once,)](
            table.words,
            table.records,
            plan,
            keys,
            begins,
            ends,
            hits,
            len(keys),
            longest,
            at_once,
            table.num_buckets,
            table.seed,
            KEY_WORDS=table.key_words,
            BLOCK=LANES,
            num_warps=1,
        )


def launch_decide(
    table: TableView,
    plan: Any,
    begins: Any,
    ends: Any,
    max_lengths: Any,
    out: PrefixBuffers,
    longest: int,
    null_id: int,
) -> None:
    """Start `decide_kernel` on the current stream."""
    if len(begins):
        decide_kernel[(len(begins),)](
            plan,
            table.meta,
            begins,
            ends,
            max_lengths,
            out.hits,
            out.num_tokens,
            out.firsts,
            out.lengths,
            out.furthest,
            out.hits if out.ids is None else out.ids,
            out.hits.shape[1],
            longest,
            null_id,
            int(out.ids is not None),
            TILE=DECIDE_TILE,
            num_warps=1,
        )
