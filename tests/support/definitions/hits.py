"""What counts as a hit, said a second time: by searching all lengths, without scans or early ends.

`hits[i]` says whether logical block i is cached. A definition returns ``(nulls, length)``: the
length of the hit in blocks, and how many blocks at its front are not needed.
"""

from collections.abc import Sequence

from kvgpu.rules.plan import HitRule
from kvgpu.rules.plan_words import CHUNKED_LOCAL, FULL, MAMBA, SLIDING_WINDOW

Hits = Sequence[bool]


def _longest(lengths: Sequence[int]) -> int:
    return max(lengths, default=0)


def _aligned(length: int, rule: HitRule) -> bool:
    return length * rule.block_size % rule.alignment == 0


def _aligned_within(limit: int, rule: HitRule) -> int:
    return _longest([n for n in range(limit + 1) if _aligned(n, rule)])


def _leading(hits: Hits) -> int:
    return _longest([n for n in range(len(hits) + 1) if all(hits[:n])])


def full_attention(hits: Hits, rule: HitRule, max_length: int) -> tuple[int, int]:
    """Every block from the start, one less with EAGLE."""
    return 0, _aligned_within(max(_leading(hits) - rule.drop, 0), rule)


def sliding_window(hits: Hits, rule: HitRule, max_length: int) -> tuple[int, int]:
    """The longest length whose window is cached, else a leading run that is shorter than a window.

    A window ends where the hit ends, or one block behind it with EAGLE; a hit of no blocks is none.
    """
    need = max(rule.extent + rule.drop, 1)
    ends = [n for n in range(1, len(hits) + 1) if _aligned(n - rule.drop, rule)]
    end = _longest([n for n in ends if n >= need and all(hits[n - need : n])])
    if end:
        return min(end - need, end - rule.drop), end - rule.drop
    run = _longest([n for n in ends if all(hits[:n])])
    length = _aligned_within(run, rule)
    if rule.drop and length:
        length = _aligned_within(length - 1, rule)
    return 0, length


def chunked_local(hits: Hits, rule: HitRule, max_length: int) -> tuple[int, int]:
    """Whole chunks count without being cached; then every block of the chunk in progress."""
    nulls = max_length // rule.extent * rule.extent // rule.block_size
    return nulls, nulls + _leading(hits[nulls:])


def mamba(hits: Hits, rule: HitRule, max_length: int) -> tuple[int, int]:
    """The longest aligned length whose last block is cached; the ones before it are not needed."""
    length = _longest([n for n in range(1, len(hits) + 1) if hits[n - 1] and _aligned(n, rule)])
    return max(length - 1, 0), length


DEFINITIONS = {FULL: full_attention, SLIDING_WINDOW: sliding_window, CHUNKED_LOCAL: chunked_local, MAMBA: mamba}


def expected_hit(hits: Hits, rule: HitRule, max_length: int) -> tuple[int, int]:
    """The hit of at most `max_length` tokens that a rule must find."""
    return DEFINITIONS[rule.kind](hits[: max_length // rule.block_size], rule, max_length)
