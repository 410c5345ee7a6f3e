"""What counts as a prefix hit, per kind of attention: pure functions of "is block i cached".

Each rule is stated once, as Python that Numba also compiles. ``hit(ctx, i)`` says whether logical
block `i` is cached; a rule returns ``(first, length)``: blocks [first, length) are hits, the ones
before `first` are not needed (null), `length` is the hit in blocks. Rules pull lazily and stop as
soon as the answer is known. Source of the behaviour: facts 28 to 35 in docs/semantics.md.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from kvgpu._jit import inline, python_of

FULL = 0
SLIDING_WINDOW = 1
CHUNKED_LOCAL = 2
MAMBA = 3


class HitRule(NamedTuple):
    """A rule with its parameters, as the index takes it.

    kind: FULL, SLIDING_WINDOW, CHUNKED_LOCAL or MAMBA. block_size, alignment: tokens; a hit is a
    multiple of the alignment. drop: leave out the last block, as EAGLE needs. extent: number of
    blocks a window needs, or the tokens of a chunk.
    """

    kind: int
    block_size: int
    alignment: int
    drop: bool = False
    extent: int = 0


@inline
def aligned_down(length: int, block_size: int, alignment: int) -> int:
    """Longest run of at most `length` blocks that ends at a multiple of the alignment."""
    while length > 0 and length * block_size % alignment != 0:
        length -= 1
    return length


@inline
def full_attention_hit(
    hit: Any, ctx: Any, max_length: int, block_size: int, alignment: int, drop: bool, extent: int
) -> tuple[int, int]:
    """The leading run (fact 28)."""
    limit = max_length // block_size
    length = 0
    while length < limit and hit(ctx, length):
        length += 1
    if drop and length > 0:
        length -= 1
    return 0, aligned_down(length, block_size, alignment)


@inline
def sliding_window_hit(
    hit: Any, ctx: Any, max_length: int, block_size: int, alignment: int, drop: bool, extent: int
) -> tuple[int, int]:
    """The right-most aligned run of `extent` blocks, else the leading run (facts 29 and 30).

    `extent` already counts the block that EAGLE drops. Quirk kept (fact 31): a leading run is
    aligned down before the EAGLE drop, and again after it, so it can lose more than it must.
    """
    first = 0
    run = 0
    length = 0
    found = False
    i = max_length // block_size - 1
    while i >= 0 and not found:
        if hit(ctx, i):
            end = i if drop else i + 1
            if run > 0 or end * block_size % alignment == 0:
                run += 1
                if run >= extent:
                    first = i
                    length = i + run
                    found = True
        else:
            run = 0
        i -= 1
    if not found:
        length = aligned_down(run, block_size, alignment)
    if drop and length > 0:
        length = aligned_down(length - 1, block_size, alignment)
    return min(first, length), length


@inline
def chunked_local_hit(
    hit: Any, ctx: Any, max_length: int, block_size: int, alignment: int, drop: bool, extent: int
) -> tuple[int, int]:
    """Nothing before the current chunk is needed; then the run from its start (fact 34)."""
    limit = max_length // block_size
    first = max_length // extent * extent // block_size
    length = first
    while length < limit and hit(ctx, length):
        length += 1
    return first, length


@inline
def mamba_hit(
    hit: Any, ctx: Any, max_length: int, block_size: int, alignment: int, drop: bool, extent: int
) -> tuple[int, int]:
    """The right-most aligned state; it stands for everything before it (fact 35)."""
    i = max_length // block_size - 1
    while i >= 0:
        if (i + 1) * block_size % alignment == 0 and hit(ctx, i):
            return i, i + 1
        i -= 1
    return 0, 0


RULES: tuple[Callable[..., tuple[int, int]], ...] = (
    full_attention_hit,
    sliding_window_hit,
    chunked_local_hit,
    mamba_hit,
)
"""By `HitRule.kind`."""

_PYTHON_RULES = tuple(python_of(rule) for rule in RULES)


def decide(rule: HitRule, hit: Callable[[Any, int], bool], max_length: int) -> tuple[int, int]:
    """Apply a rule in plain Python.

    Args:
        rule: Kind and parameters.
        hit: Called as ``hit(None, i)``; each call may record what it found.
        max_length: Longest hit allowed, in tokens.

    Returns:
        (first, length) in blocks.
    """
    kind, block_size, alignment, drop, extent = rule
    return _PYTHON_RULES[kind](hit, None, max_length, block_size, alignment, drop, extent)
