"""Which full blocks are worth keeping for reuse: functions of positions only."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.jit import jit, leaf, python_of
from kvgpu.config.specs import SlidingWindowSpec, cdiv

NO_ENDS, RESEND, RESEND_OR_LONGER = 0, 1, 2
"""Which hits at the end of a prompt stay reachable. RESEND: that of the same prompt again. RESEND_OR_LONGER: that and
the one of a longer prompt, each before the block that EAGLE drops."""

NO_DROP, DROP, DROP_BELOW = 0, 1, 2
"""Whether the last block of a hit is dropped. DROP_BELOW: it is, and the position a block before a junction stays
reachable, too."""

NOWHERE = -1
"""No position."""


def window_blocks(spec: SlidingWindowSpec, eagle: bool) -> int:
    """Return how many consecutive cached blocks a hit needs: the blocks that the window of the next token reaches.

    EAGLE needs one more, because the last block is computed again.
    """
    return cdiv(spec.sliding_window - 1, spec.block_size) + eagle


class Mask(NamedTuple):
    """The parameters by which `is_reachable` decides which blocks of a window, or which states, a hit needs."""

    block_size: int
    """Tokens of a block."""
    shift: int
    """Number of blocks that EAGLE drops."""
    need: int
    """Number of consecutive blocks that a hit needs."""
    period: int
    """Blocks between the hit lengths that stay reachable; 0 if none of them does."""
    ends: int
    """Which hits at the end of the prompt stay reachable as well: NO_ENDS, RESEND or RESEND_OR_LONGER. Junctions do
    unless it is NO_ENDS."""
    alignment: int
    """Hits end at multiples of this number of tokens."""
    eagle: int
    """Whether the last block of a hit is dropped: NO_DROP, DROP or DROP_BELOW."""


class Retention(NamedTuple):
    """What a group keeps, besides what its spec says."""

    alignment: int | None
    """Hits end at multiples of this number of tokens; None for no mask."""
    eagle: int
    """Whether the last block of a hit is dropped: NO_DROP, DROP or DROP_BELOW."""
    interval: int | None
    """Tokens between the hit lengths that stay reachable: None for all of them, 0 for only the end of the prompt."""
    ends: int
    """Which ends of the prompt stay reachable with an interval."""
    thins_states: bool
    """The switch of `Behaviour` with this name."""


@leaf
def mask_of(group: Any) -> Mask:
    """Return the mask of a GROUP_RECORD."""
    return Mask(
        group.block_size, group.shift, group.need, group.period, group.ends, group.hit_alignment, group.mask_eagle
    )


@leaf
def boundaries(mask: Mask, num_prompt: int, junction: int) -> tuple[int, int, int, int]:
    """Return the positions, in tokens, at which a later request could resume a prompt; NOWHERE for none.

    Args:
        mask: Mask of the group.
        num_prompt: Tokens of the prompt; -1 if unknown.
        junction: Position up to which a longer prefix was cached in other groups; 0 if there is none.
    """
    size = mask.alignment
    resend = longer = at = before = NOWHERE
    if num_prompt >= 0 and mask.ends == RESEND:
        resend = num_prompt - 1
    elif num_prompt >= 0 and mask.ends == RESEND_OR_LONGER:
        resend = max((num_prompt - 1) // size * size - size, 0)
        longer = max(num_prompt // size * size - size, 0)
    if junction > 0 and mask.ends != NO_ENDS:
        at = junction
        if mask.eagle == DROP_BELOW:
            before = junction - mask.block_size
    return resend, longer, at, before


@leaf
def is_reachable(mask: Mask, block: int, positions: Any) -> bool:
    """Return whether some allowed hit needs a block of a window, or a state (facts 48 and B60 to B66).

    Args:
        mask: Mask of the group.
        block: Index of the block in the request.
        positions: Where later requests could resume, see `boundaries`.
    """
    shift, need, period = mask.shift, mask.need, mask.period
    if period > 0 and block >= shift and (block - shift) % period >= period - need:
        return True
    for position in positions:
        if position >= 0:
            end = position // mask.alignment * mask.alignment // mask.block_size + shift
            if end - need <= block < end:
                return True
    return False


def mask_rule(
    spec: SlidingWindowSpec, alignment: int | None, eagle: int, retention_interval: int | None, ends: int = RESEND
) -> Mask | None:
    """Return which blocks of a sliding window some allowed hit would need; None if it would need all (fact 48).

    Args:
        spec: Window and block size.
        alignment: Hits end at multiples of this number of tokens; None for no mask.
        eagle: Whether the last block of a hit is dropped: NO_DROP, DROP or DROP_BELOW.
        retention_interval: Tokens between the hit lengths that stay reachable: None for every
            multiple of the alignment, 0 for only the end of the prompt.
        ends: Which ends of the prompt stay reachable with an interval.
    """
    if alignment is None or alignment % spec.block_size:
        return None
    need = window_blocks(spec, eagle != NO_DROP)
    period = (alignment if retention_interval is None else retention_interval) // spec.block_size
    if 0 < period <= need:
        return None
    kept = NO_ENDS if retention_interval is None else ends
    return Mask(spec.block_size, int(eagle != NO_DROP), need, period, kept, alignment, int(eagle))


def state_mask_rule(
    block_size: int, alignment: int | None, eagle: int, retention_interval: int | None, ends: int = RESEND
) -> Mask | None:
    """Return which states of a recurrent layer some allowed hit would need; None if it would need all (B64).

    A hit needs the one state at its end, and none is dropped; arguments as in `mask_rule`, in tokens.
    """
    if alignment is None or retention_interval is None:
        return None
    period = retention_interval // block_size
    return None if period == 1 else Mask(block_size, 0, 1, period, ends, alignment, int(eagle))


def state_to_keep(num_prompt: int, unit: int, drops: bool, lookahead: int) -> int:
    """Return the last position of a prompt at which a state can be hit, in tokens (B86). O(1).

    Args:
        num_prompt: Tokens of the prompt.
        unit: Tokens of a hash block; the position is a multiple.
        drops: Whether a drafter needs the last block of a hit to be computed again.
        lookahead: Tokens after a block that its hash covers as well.
    """
    limit = num_prompt if drops else num_prompt - max(1, lookahead)
    return max(limit // unit * unit - (unit if drops else 0), 0)


def can_keep_inside(start: int, end: int, position: int, unit: int, block_size: int, every: int) -> bool:
    """Return whether a step can keep the state at a position inside it, in a block of its own (B87). O(1).

    Args:
        start, end: Tokens before the step, and after it.
        position: Of the state.
        unit: Tokens of a hash block: a state is kept at its end.
        block_size: Tokens of a block.
        every: Tokens between the positions of a step whose states the engine has.
    """
    has_place = cdiv(end, block_size) - 2 > (start - 1) // block_size
    is_inside = start + unit <= position < end and (position - start) % every == 0
    return has_place and is_inside and start % unit == 0


@jit
def _mask(rule: tuple[Any, ...], start: int, end: int, positions: Any, final: int) -> npt.NDArray[np.bool_]:
    mask = Mask(*rule)
    reachable = np.empty(end - start, np.bool_)
    for block in range(start, end):
        reachable[block - start] = is_reachable(mask, block, positions)
    if final >= 0 and mask.period > 0 and mask.eagle == NO_DROP:
        for block in range(max(start, final // mask.period * mask.period, final - mask.need), min(end, final)):
            reachable[block - start] = True
    return reachable


def masked(
    rule: Mask | None,
    start_block: int,
    end_block: int,
    positions: Sequence[int],
    final_segment_end_block: int | None = None,
) -> npt.NDArray[np.bool_] | None:
    """Return which blocks of [start_block, end_block) some allowed hit would need.

    Args:
        rule: From `mask_rule` or `state_mask_rule`.
        start_block: First block.
        end_block: Block after the last.
        positions: Where later requests could resume, in tokens; those below 0 do not count.
        final_segment_end_block: Block after the last of the whole request, if the end of what follows the last
            multiple of the interval is kept as well.

    Returns:
        bool [end_block - start_block], or None if all blocks are needed. O(end_block - start_block).
    """
    if rule is None:
        return None
    final = NOWHERE if final_segment_end_block is None else final_segment_end_block
    given = np.array(positions, np.int64)
    mask: npt.NDArray[np.bool_] = _mask(tuple(rule), start_block, max(start_block, end_block), given, final)
    return mask


def positions_of(
    rule: Mask | None, num_prompt_tokens: int | None, junction: int = 0, alignment: int | None = None
) -> Sequence[int]:
    """`boundaries` for plain Python. O(1).

    Args:
        rule: Mask of the group; None for no positions.
        num_prompt_tokens: Tokens of the prompt; None if they are not known.
        junction: As in `boundaries`.
        alignment: Tokens of which a resumed prompt is a multiple, if hits may end elsewhere; None for that of the mask.
    """
    if rule is None:
        return ()
    num_prompt = NOWHERE if num_prompt_tokens is None else num_prompt_tokens
    aligned = rule if alignment is None else rule._replace(alignment=alignment)
    found: tuple[int, int, int, int] = python_of(boundaries)(aligned, num_prompt, junction)
    return found
