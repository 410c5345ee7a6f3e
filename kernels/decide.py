"""What counts as a prefix hit, in Triton: the rules of kvgpu/rules/hits.py, applied to vectors of hits.

The hits of a request are stored in device memory as ids, with -1 for a miss. A rule reads them in tiles and
returns (first, length) in blocks, as int32 scalars: blocks [first, length) are hits, and blocks before `first`
are not needed. `step` is the alignment in blocks.
"""

import triton
import triton.language as tl

from kvgpu import layout
from kvgpu.rules import plan_words

NUM_QUERIES = tl.constexpr(plan_words.PLAN_NUM_QUERIES)
ONE_PASS = tl.constexpr(plan_words.PLAN_ONE_PASS)
REACH = tl.constexpr(plan_words.PLAN_REACH)
NUM_CUT = tl.constexpr(plan_words.PLAN_NUM_CUT)
HEADER = tl.constexpr(plan_words.PLAN_HEADER)
QUERY_WORDS = tl.constexpr(plan_words.QUERY_WORDS)
KIND = tl.constexpr(plan_words.QUERY_KIND)
BLOCK_SIZE = tl.constexpr(plan_words.QUERY_BLOCK_SIZE)
DROP = tl.constexpr(plan_words.QUERY_DROP)
EXTENT = tl.constexpr(plan_words.QUERY_EXTENT)
STRIDE = tl.constexpr(plan_words.QUERY_STRIDE)
FIRST_LINE = tl.constexpr(plan_words.QUERY_FIRST_LINE)
NUM_LINES = tl.constexpr(plan_words.QUERY_NUM_LINES)
STEP = tl.constexpr(plan_words.QUERY_STEP)
MARGIN = tl.constexpr(plan_words.QUERY_MARGIN)
LONGEST = tl.constexpr(layout.MAX_TOKENS)
FULL = tl.constexpr(plan_words.FULL)
SLIDING_WINDOW = tl.constexpr(plan_words.SLIDING_WINDOW)
CHUNKED_LOCAL = tl.constexpr(plan_words.CHUNKED_LOCAL)


@triton.jit
def later(a, b):
    """Return the larger of two block numbers, for a scan."""
    return tl.maximum(a, b)


@triton.jit
def load_hits(ids, line_words, num_lines, stride, block, active):
    """Load the smallest id that the groups of a query have for each block: it is negative if one group misses.

    `ids` points to hash block 0 of the request in the first group. Idle lanes count as hits.
    """
    place = (block.to(tl.int64) + 1) * stride - 1
    found = tl.load(ids + place, mask=active, other=0)
    for line in range(1, num_lines):
        found = tl.minimum(found, tl.load(ids + line * line_words + place, mask=active, other=0))
    return found


@triton.jit
def leading_run(ids, line_words, num_lines, stride, begin, limit, TILE: tl.constexpr):
    """Return the first block of [begin, limit) that misses, or `limit` if none does; `begin` if that is larger."""
    end = tl.maximum(begin, limit)
    tile = begin
    while tile < end:
        block = tile + tl.arange(0, TILE)
        found = load_hits(ids, line_words, num_lines, stride, block, block < limit)
        end = tl.minimum(end, tl.min(tl.where(found < 0, block, end)))
        tile += TILE
    return end


@triton.jit
def sliding_window_hit(ids, line_words, num_lines, stride, limit, drop, extent, step, TILE: tl.constexpr):
    """Find the right-most aligned run that is long enough, or else the leading run (facts 29 to 31)."""
    need = tl.maximum(extent + drop, 1)
    best = limit * 0 - 1
    last_miss = limit * 0 - 1
    lead = limit
    tile = limit * 0
    while tile < limit:
        block = tile + tl.arange(0, TILE)
        active = block < limit
        found = load_hits(ids, line_words, num_lines, stride, block, active)
        miss = active & (found < 0)
        missed_before = tl.associative_scan(tl.where(miss, block, -1), 0, later)
        missed_before = tl.maximum(missed_before, last_miss)
        # Seen from the right, a run may begin only where the resulting hit is aligned.
        ends_run = active & ((block + 1 - drop) % step == 0) & (block - missed_before >= need)
        best = tl.maximum(best, tl.max(tl.where(ends_run, block, -1)))
        last_miss = tl.maximum(last_miss, tl.max(tl.where(miss, block, -1)))
        lead = tl.minimum(lead, tl.min(tl.where(miss, block, lead)))
        tile += TILE
    # If no run is long enough, the run that reaches the first block counts, aligned before the drop.
    leading = tl.where(lead < drop, 0, (lead - drop) // step * step + drop) // step * step
    length = tl.where(best >= 0, best + 1, leading)
    length = tl.where((drop > 0) & (length > 0), (length - 1) // step * step, length)
    first = tl.where(best >= 0, best - need + 1, 0)
    return tl.minimum(first, length), length


@triton.jit
def mamba_hit(ids, line_words, num_lines, stride, limit, step, TILE: tl.constexpr):
    """Find the right-most aligned state (fact 35)."""
    best = limit * 0 - 1
    top = limit
    while (top > 0) & (best < 0):
        block = top - 1 - tl.arange(0, TILE)
        active = block >= 0
        found = load_hits(ids, line_words, num_lines, stride, block, active)
        state = active & (found >= 0) & ((block + 1) % step == 0)
        best = tl.max(tl.where(state, block, -1))
        top -= TILE
    return tl.maximum(best, 0), best + 1


@triton.jit
def apply_rule(ids, line_words, num_lines, stride, kind, max_length, size, step, drop, extent, TILE: tl.constexpr):
    """Apply the rule of a kind of attention; `max_length` and `size` are in tokens."""
    limit = max_length // size
    first = limit * 0
    length = limit * 0
    if kind == FULL:
        length = leading_run(ids, line_words, num_lines, stride, first, limit, TILE)
        length = tl.maximum(length - drop, 0) // step * step
    elif kind == SLIDING_WINDOW:
        first, length = sliding_window_hit(ids, line_words, num_lines, stride, limit, drop, extent, step, TILE)
    elif kind == CHUNKED_LOCAL:
        first = max_length // extent * extent // size
        length = leading_run(ids, line_words, num_lines, stride, first, limit, TILE)
    else:
        first, length = mamba_hit(ids, line_words, num_lines, stride, limit, step, TILE)
    return first, length


@triton.jit
def query_word(words, base, WORD: tl.constexpr):
    """Load one parameter of a query, as int32."""
    return tl.load(words + base + WORD).to(tl.int32)


@triton.jit
def common_hit(ids, line_words, words, num_hashes, max_length, firsts, lengths, furthest, TILE: tl.constexpr):
    """Find the longest hit that suits all queries of a plan: a fixed point (facts 45 and 46).

    Args:
        ids: int32, points to hash block 0 of the request in line 0 of the probe's results.
        line_words: Distance from one line to the next, in words.
        words: int64, `PrefixPlan.words`.
        num_hashes: int32, hashes of the request.
        max_length: int32, longest hit allowed, in tokens.
        firsts, lengths: int32 [queries] of the request, written.
        furthest: int64 [1], written: the longest length in tokens that is cached in some groups.

    Returns:
        The length of the hit in tokens.
    """
    num_queries = tl.load(words + NUM_QUERIES).to(tl.int32)
    one_pass = tl.load(words + ONE_PASS).to(tl.int32)
    # No hit is longer than a request can be, whatever a plan lets a lookup read.
    ceiling = tl.minimum(max_length + tl.load(words + REACH), LONGEST).to(tl.int32)
    found = max_length
    head = max_length * 0
    verified = tl.cast(0, tl.int64)
    first_pass = num_queries > 0
    going = num_queries > 0
    # Each pass begins with the length `found` that the last one agreed on. `current` is what the queries so far agree
    # on: the blocks of [0, current) suit every query before q. `verified` has a bit for each query whose EAGLE block
    # was dropped at this length already.
    while going:
        current = found
        for q in range(num_queries):
            base = HEADER + q * QUERY_WORDS
            kind = query_word(words, base, KIND)
            size = query_word(words, base, BLOCK_SIZE)
            if (kind == FULL) & (first_pass == 0):
                current = current // size * size
            else:
                stride = query_word(words, base, STRIDE)
                bit = tl.cast(1, tl.int64) << q
                drop = tl.where((verified & bit) == 0, query_word(words, base, DROP), 0)
                # The dropped block follows the hit that is being verified.
                margin = tl.where(drop > 0, query_word(words, base, MARGIN), 0)
                limit = tl.minimum(current.to(tl.int64) + margin, ceiling).to(tl.int32)
                hashed = (num_hashes // stride).to(tl.int64) * size
                limit = tl.minimum(limit, tl.minimum(hashed, LONGEST).to(tl.int32))
                first, length = apply_rule(
                    ids + query_word(words, base, FIRST_LINE) * line_words,
                    line_words,
                    query_word(words, base, NUM_LINES),
                    stride,
                    kind,
                    limit,
                    size,
                    query_word(words, base, STEP),
                    drop,
                    query_word(words, base, EXTENT),
                    TILE,
                )
                tl.store(firsts + q, first)
                tl.store(lengths + q, length)
                shorter = tl.where(length * size < current, tl.cast(0, tl.int64), verified)
                verified = tl.where(drop > 0, verified | bit, shorter)
                current = length * size
                head = tl.where(q == 0, tl.maximum(head, current), head)
        going = (current < found) & (one_pass == 0)
        found = tl.minimum(found, current)
        first_pass = num_queries < 0
    tl.store(furthest, head.to(tl.int64))
    num_cut = tl.load(words + NUM_CUT).to(tl.int32)
    for q in range(num_cut):
        # Only the first query can have less than the common hit, where it dropped a block that a later one did not.
        agreed = tl.where(q == 0, tl.minimum(head, found), found)
        tl.store(lengths + q, agreed // query_word(words, HEADER + q * QUERY_WORDS, BLOCK_SIZE))
    return found
