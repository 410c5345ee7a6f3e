"""What counts as a prefix hit, per kind of attention: pure functions of "is block i cached".

Each rule is stated once, as Python that Numba also compiles. ``hit(query, i)`` tells whether logical block `i` of the
request is cached; ``run(query, i, end)`` returns the first block of [i, end) that is not cached, else `end`. A rule
takes these, the longest hit allowed in tokens and its parameters (`HitRule`), and returns ``(first, length)``: `length`
is the hit in blocks; blocks [first, length) are cached, and blocks before `first` are not needed (null). Rules ask only
for the blocks that they need, and stop as soon as the answer is known. Where hits may end inside a block, `length`
counts units of it, and ``part(query, u)`` tells whether a block is cached up to the end of unit `u` of the request.
Source of the behaviour: facts 28 to 35, B54 and B57 in docs/semantics.md.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from kvgpu.compiled.jit import leaf, python_of
from kvgpu.rules.plan import HitRule, PrefixPlan
from kvgpu.rules.plan_words import (
    CHUNKED_LOCAL,
    FULL,
    PLAN_HEADER,
    PLAN_NUM_CUT,
    PLAN_NUM_QUERIES,
    PLAN_ONE_PASS,
    PLAN_REACH,
    QUERY_ALIGNMENT,
    QUERY_BLOCK_SIZE,
    QUERY_DROP,
    QUERY_EXTENT,
    QUERY_KIND,
    QUERY_MARGIN,
    QUERY_STRIDE,
    QUERY_UNIT,
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
def full_attention_hit(hit: Any, run: Any, query: Any, max_length: int, rule: HitRule) -> tuple[int, int]:
    """The leading run (fact 28)."""
    length = run(query, 0, max_length // rule.block_size)
    if rule.drop and length > 0:
        length -= 1
    return 0, aligned_down(length, rule.block_size, rule.alignment)


@leaf
def sliding_window_hit(hit: Any, run: Any, query: Any, max_length: int, rule: HitRule) -> tuple[int, int]:
    """The right-most aligned run of `extent` blocks, else the leading run (facts 29 and 30).

    With `drop` the run is one block longer. Quirk kept (fact 31): a leading run is aligned down
    before the EAGLE drop, and again after it, so it can lose more than it must.
    """
    need = rule.extent + 1 if rule.drop else rule.extent
    first = 0
    streak = 0
    length = 0
    found = False
    i = max_length // rule.block_size - 1
    while i >= 0 and not found:
        if hit(query, i):
            end = i if rule.drop else i + 1
            if streak > 0 or end * rule.block_size % rule.alignment == 0:
                streak += 1
                if streak >= need:
                    first = i
                    length = i + streak
                    found = True
        else:
            streak = 0
        i -= 1
    if not found:
        length = aligned_down(streak, rule.block_size, rule.alignment)
    if rule.drop and length > 0:
        length = aligned_down(length - 1, rule.block_size, rule.alignment)
    return min(first, length), length


@leaf
def chunked_local_hit(hit: Any, run: Any, query: Any, max_length: int, rule: HitRule) -> tuple[int, int]:
    """Nothing before the current chunk is needed; then the run from its start (fact 34)."""
    first = max_length // rule.extent * rule.extent // rule.block_size
    return first, run(query, first, max_length // rule.block_size)


@leaf
def mamba_hit(hit: Any, run: Any, query: Any, max_length: int, rule: HitRule) -> tuple[int, int]:
    """The right-most aligned state; it stands for everything before it (fact 35)."""
    i = max_length // rule.block_size - 1
    while i >= 0:
        if (i + 1) * rule.block_size % rule.alignment == 0 and hit(query, i):
            return i, i + 1
        i -= 1
    return 0, 0


@leaf
def full_attention_part_hit(part: Any, run: Any, query: Any, max_length: int, rule: HitRule) -> tuple[int, int]:
    """The leading run, and the longest part of the block after it that is cached (B54)."""
    per_block = rule.block_size // rule.unit
    num_full = run(query, 0, max_length // rule.block_size) * per_block
    length = min(max_length // rule.unit, num_full + per_block - 1)
    while length > num_full and not part(query, length - 1):
        length -= 1
    return 0, length - 1 if rule.drop and length > 0 else length


@leaf
def mamba_part_hit(part: Any, query: Any, max_length: int, rule: HitRule) -> tuple[int, int]:
    """The right-most state, wherever in its block it was kept (B57)."""
    length = max_length // rule.unit
    while length > 0 and not part(query, length - 1):
        length -= 1
    return max(length - 1, 0) // (rule.block_size // rule.unit), length


@leaf
def apply_rule(hit: Any, run: Any, part: Any, query: Any, max_length: int, rule: HitRule) -> tuple[int, int]:
    """Apply the rule of `rule.kind`."""
    if rule.unit != rule.block_size:
        if rule.kind == FULL:
            return full_attention_part_hit(part, run, query, max_length, rule)
        return mamba_part_hit(part, query, max_length, rule)
    if rule.kind == FULL:
        return full_attention_hit(hit, run, query, max_length, rule)
    if rule.kind == SLIDING_WINDOW:
        return sliding_window_hit(hit, run, query, max_length, rule)
    if rule.kind == CHUNKED_LOCAL:
        return chunked_local_hit(hit, run, query, max_length, rule)
    return mamba_hit(hit, run, query, max_length, rule)


class Probes(NamedTuple):
    """How `common_hit` asks about blocks: functions, all compiled or all plain Python.

    apply: `apply_rule`. bind: ``bind(lookup, q)`` makes from a lookup what `hit`, `run` and `part` take for query `q`.
    hit, run, part: as rules take them; a block is cached if it is in all groups of the query.
    """

    apply: Any
    bind: Any
    hit: Any
    run: Any
    part: Any


FIRST_NEEDED, NUM_HIT, FURTHEST, HIT_ROWS = 0, 1, 2, 3
"""Rows of `hits` in `common_hit`, by query: the first block that is needed, and the blocks of the hit. FURTHEST has one
word: the length in tokens that the first query has, which is the longest that some groups have cached."""


@leaf
def common_hit(probes: Any, lookup: Any, words: Any, num_hashes: int, max_length: int, hits: Any) -> int:
    """Find the longest hit that suits all queries of a plan: a fixed point (facts 45 and 46).

    Each query in turn shortens the hit until none does. Full attention never hits less in a shorter
    prefix, so it is asked once.

    Args:
        probes: The `Probes`.
        lookup: For `probes.bind`.
        words: `PrefixPlan.words`.
        num_hashes: Hashes that the request has.
        max_length: Longest hit allowed, in tokens.
        hits: int [HIT_ROWS, queries], filled: see FIRST_NEEDED.

    Returns:
        The length of the hit in tokens.
    """
    found = max_length
    verified = 0
    asked = 0
    hits[FURTHEST][0] = 0
    while True:
        # `current` is the length that the queries so far agree on. The sets `asked` and `verified` have a bit for each
        # query: full attention that was asked, and queries whose EAGLE block was dropped at this length already.
        current = found
        for q in range(words[PLAN_NUM_QUERIES]):
            base = PLAN_HEADER + q * QUERY_WORDS
            kind, size, unit = words[base + QUERY_KIND], words[base + QUERY_BLOCK_SIZE], words[base + QUERY_UNIT]
            if kind == FULL and asked & (1 << q):
                current = current // unit * unit
                continue
            asked |= 1 << q
            drop = words[base + QUERY_DROP] != 0 and not verified & (1 << q)
            # The block to be dropped follows the hit that is being verified.
            margin = words[base + QUERY_MARGIN] if drop else 0
            limit = min(current + margin, max_length + words[PLAN_REACH])
            hashed = num_hashes // words[base + QUERY_STRIDE] * size if unit == size else num_hashes * unit
            limit = min(limit, hashed)
            rule = HitRule(kind, size, words[base + QUERY_ALIGNMENT], drop, words[base + QUERY_EXTENT], unit)
            first, length = probes.apply(probes.hit, probes.run, probes.part, probes.bind(lookup, q), limit, rule)
            hits[FIRST_NEEDED][q] = first
            hits[NUM_HIT][q] = length
            if drop:
                verified |= 1 << q
            elif length * unit < current:
                verified = 0
            current = length * unit
            if q == 0:
                hits[FURTHEST][0] = max(hits[FURTHEST][0], current)
        if current >= found:
            break
        found = current
        if words[PLAN_ONE_PASS]:
            break
    for q in range(words[PLAN_NUM_QUERIES]):
        base = PLAN_HEADER + q * QUERY_WORDS
        size, unit = words[base + QUERY_BLOCK_SIZE], words[base + QUERY_UNIT]
        if q < words[PLAN_NUM_CUT]:
            hits[NUM_HIT][q] = min(hits[NUM_HIT][q], found // unit)
        if unit != size:
            hits[NUM_HIT][q] = (hits[NUM_HIT][q] * unit + size - 1) // size
    return found


_PYTHON_RULES = tuple(
    python_of(rule) for rule in (full_attention_hit, sliding_window_hit, chunked_local_hit, mamba_hit)
)
"""By kind."""

_full_attention_part_hit, _mamba_part_hit = python_of(full_attention_part_hit), python_of(mamba_part_hit)


def decide(
    plan: PrefixPlan, hit: Callable[[int, int, int], bool], num_hashes: int, max_length: int
) -> tuple[int, list[int], list[int], int]:
    """`common_hit` in plain Python.

    Args:
        plan: What is looked up.
        hit: Called as ``hit(q, i, h)``: whether block `i` is cached up to the end of hash block `h`, its last one
            unless hits may end inside it; each call may record what it found.
        num_hashes: Hashes that the request has.
        max_length: Longest hit allowed, in tokens.

    Returns:
        The length in tokens; for each query the first block that is needed, and the blocks hit; and the longest
        length in tokens that some groups have cached.
    """

    strides = [query.stride for query in plan.queries]

    def whole(query: int, i: int) -> bool:
        return hit(query, i, (i + 1) * strides[query] - 1)

    def run(query: int, i: int, end: int) -> int:
        while i < end and whole(query, i):
            i += 1
        return i

    def part(query: int, unit: int) -> bool:
        return hit(query, unit // strides[query], unit)

    def apply(hit: Any, run: Any, part: Any, query: int, max_length: int, rule: HitRule) -> tuple[int, int]:
        if not rule.ends_inside:
            return _PYTHON_RULES[rule.kind](hit, run, query, max_length, rule)
        if rule.kind == FULL:
            return _full_attention_part_hit(part, run, query, max_length, rule)
        return _mamba_part_hit(part, query, max_length, rule)

    probes = Probes(apply, lambda _, query: query, whole, run, part)
    firsts, lengths, furthest = ([0] * len(plan.queries) for _ in range(HIT_ROWS))
    hits = (firsts, lengths, furthest)
    found = python_of(common_hit)(probes, None, plan.words.tolist(), num_hashes, max_length, hits)
    return found, firsts, lengths, furthest[0]
