"""What counts as a prefix hit, per kind of attention: pure functions of "is block i cached".

Each rule is stated once, as Python that Numba also compiles. ``hit(ctx, i)`` says whether logical
block `i` is cached, ``run(ctx, i, end)`` which is the first block of [i, end) that is not, else `end`;
a rule returns ``(first, length)``: blocks [first, length) are hits, the ones before `first` are not
needed (null), `length` is the hit in blocks. Rules pull lazily and stop as soon as the answer is
known. Source of the behaviour: facts 28 to 35 in docs/semantics.md.
"""

from collections.abc import Callable
from typing import Any

from kvgpu.compiled.jit import inline, leaf, python_of
from kvgpu.rules.plan import PrefixPlan
from kvgpu.rules.plan_words import (
    CHUNKED_LOCAL,
    FULL,
    PLAN_HEADER,
    QUERY_ALIGNMENT,
    QUERY_BLOCK_SIZE,
    QUERY_DROP,
    QUERY_EXTENT,
    QUERY_KIND,
    QUERY_STRIDE,
    QUERY_WORDS,
    SLIDING_WINDOW,
)


@leaf
def aligned_down(length: int, block_size: int, alignment: int) -> int:
    """Longest run of at most `length` blocks that ends at a multiple of the alignment."""
    while length > 0 and length * block_size % alignment != 0:
        length -= 1
    return length


@leaf
def full_attention_hit(
    hit: Any, run: Any, ctx: Any, max_length: int, block_size: int, alignment: int, drop: bool, extent: int
) -> tuple[int, int]:
    """The leading run (fact 28)."""
    length = run(ctx, 0, max_length // block_size)
    if drop and length > 0:
        length -= 1
    return 0, aligned_down(length, block_size, alignment)


@leaf
def sliding_window_hit(
    hit: Any, run: Any, ctx: Any, max_length: int, block_size: int, alignment: int, drop: bool, extent: int
) -> tuple[int, int]:
    """The right-most aligned run of `extent` blocks, else the leading run (facts 29 and 30).

    With `drop` the run is one block longer. Quirk kept (fact 31): a leading run is aligned down
    before the EAGLE drop, and again after it, so it can lose more than it must.
    """
    need = extent + 1 if drop else extent
    first = 0
    streak = 0
    length = 0
    found = False
    i = max_length // block_size - 1
    while i >= 0 and not found:
        if hit(ctx, i):
            end = i if drop else i + 1
            if streak > 0 or end * block_size % alignment == 0:
                streak += 1
                if streak >= need:
                    first = i
                    length = i + streak
                    found = True
        else:
            streak = 0
        i -= 1
    if not found:
        length = aligned_down(streak, block_size, alignment)
    if drop and length > 0:
        length = aligned_down(length - 1, block_size, alignment)
    return min(first, length), length


@leaf
def chunked_local_hit(
    hit: Any, run: Any, ctx: Any, max_length: int, block_size: int, alignment: int, drop: bool, extent: int
) -> tuple[int, int]:
    """Nothing before the current chunk is needed; then the run from its start (fact 34)."""
    first = max_length // extent * extent // block_size
    return first, run(ctx, first, max_length // block_size)


@leaf
def mamba_hit(
    hit: Any, run: Any, ctx: Any, max_length: int, block_size: int, alignment: int, drop: bool, extent: int
) -> tuple[int, int]:
    """The right-most aligned state; it stands for everything before it (fact 35)."""
    i = max_length // block_size - 1
    while i >= 0:
        if (i + 1) * block_size % alignment == 0 and hit(ctx, i):
            return i, i + 1
        i -= 1
    return 0, 0


@leaf
def apply_rule(
    hit: Any, run: Any, ctx: Any, kind: int, max_length: int, block_size: int, alignment: int, drop: bool, extent: int
) -> tuple[int, int]:
    """The rule of a kind."""
    if kind == FULL:
        return full_attention_hit(hit, run, ctx, max_length, block_size, alignment, drop, extent)
    if kind == SLIDING_WINDOW:
        return sliding_window_hit(hit, run, ctx, max_length, block_size, alignment, drop, extent)
    if kind == CHUNKED_LOCAL:
        return chunked_local_hit(hit, run, ctx, max_length, block_size, alignment, drop, extent)
    return mamba_hit(hit, run, ctx, max_length, block_size, alignment, drop, extent)


@inline
def common_hit(
    apply: Any,
    bind: Any,
    hit: Any,
    run: Any,
    ctx: Any,
    words: Any,
    num_hashes: int,
    max_length: int,
    firsts: Any,
    lengths: Any,
) -> int:
    """The longest hit that suits all queries of a plan: a fixed point (facts 45 and 46).

    Each query in turn shortens the hit until none does. Full attention never hits less in a shorter
    prefix, so it is asked once.

    Args:
        apply: `apply_rule`, compiled or in plain Python.
        bind: ``bind(ctx, q)`` gives what `hit` takes for query `q`.
        hit: ``hit(bound, i)``: whether block `i` is cached in all groups of the query.
        run: ``run(bound, i, end)``: the first block of [i, end) that is not, else `end`.
        ctx: For `bind`.
        words: `PrefixPlan.words`.
        num_hashes: Hashes that the request has.
        max_length: Longest hit allowed, in tokens.
        firsts: int [queries], filled: blocks before are not needed.
        lengths: int [queries], filled: blocks of the hit.

    Returns:
        The length of the hit in tokens.
    """
    num_queries, one_pass = words[0], words[1]
    found = max_length
    verified = 0
    asked = 0
    while True:
        current = found
        for q in range(num_queries):
            base = PLAN_HEADER + q * QUERY_WORDS
            kind, size = words[base + QUERY_KIND], words[base + QUERY_BLOCK_SIZE]
            if kind == FULL and asked & (1 << q):
                current = current // size * size
                continue
            asked |= 1 << q
            drop = words[base + QUERY_DROP] != 0 and not verified & (1 << q)
            # The dropped block lies behind the hit that is being verified.
            limit = min(current + size, max_length) if drop else current
            limit = min(limit, num_hashes // words[base + QUERY_STRIDE] * size)
            first, length = apply(
                hit,
                run,
                bind(ctx, q),
                kind,
                limit,
                size,
                words[base + QUERY_ALIGNMENT],
                drop,
                words[base + QUERY_EXTENT],
            )
            firsts[q] = first
            lengths[q] = length
            if drop:
                verified |= 1 << q
            elif length * size < current:
                verified = 0
            current = length * size
        if current >= found:
            break
        found = current
        if one_pass:
            break
    base = PLAN_HEADER
    if words[base + QUERY_KIND] == FULL:
        lengths[0] = min(lengths[0], found // words[base + QUERY_BLOCK_SIZE])
    return found


_PYTHON_RULES = tuple(
    python_of(rule) for rule in (full_attention_hit, sliding_window_hit, chunked_local_hit, mamba_hit)
)
"""By kind."""


def decide(
    plan: PrefixPlan, hit: Callable[[int, int], bool], num_hashes: int, max_length: int
) -> tuple[int, list[int], list[int]]:
    """`common_hit` in plain Python.

    Args:
        plan: What is looked up.
        hit: Called as ``hit(q, i)``; each call may record what it found.
        num_hashes: Hashes that the request has.
        max_length: Longest hit allowed, in tokens.

    Returns:
        The length in tokens; for each query the first block that is needed, and the blocks hit.
    """

    def run(query: int, i: int, end: int) -> int:
        while i < end and hit(query, i):
            i += 1
        return i

    firsts, lengths = [0] * len(plan.queries), [0] * len(plan.queries)
    found = python_of(common_hit)(
        lambda hit, run, ctx, kind, *rest: _PYTHON_RULES[kind](hit, run, ctx, *rest),
        lambda _, query: query,
        hit,
        run,
        None,
        plan.words.tolist(),
        num_hashes,
        max_length,
        firsts,
        lengths,
    )
    return found, firsts, lengths
