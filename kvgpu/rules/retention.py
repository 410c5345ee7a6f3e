"""Which full blocks are worth keeping for reuse: functions of positions only."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.jit import jit, leaf
from kvgpu.config.specs import SlidingWindowSpec, cdiv


def window_blocks(spec: SlidingWindowSpec, eagle: bool) -> int:
    """Return how many consecutive cached blocks a hit needs: the blocks that the window of the next token reaches.

    EAGLE needs one more, because the last block is computed again.
    """
    return cdiv(spec.sliding_window - 1, spec.block_size) + eagle


class Mask(NamedTuple):
    """The parameters by which `is_reachable` decides which blocks of a sliding window some allowed hit needs."""

    block_size: int
    """Tokens of a block."""
    shift: int
    """Number of blocks that EAGLE drops."""
    need: int
    """Number of consecutive blocks that a hit needs."""
    period: int
    """Blocks between the hit lengths that stay reachable; 0 if none of them does."""
    prompt_ends: bool
    """Whether the hit at the end of the prompt stays reachable as well."""
    alignment: int
    """Hits end at multiples of this number of tokens."""


@leaf
def mask_of(group: Any) -> Mask:
    """Return the mask of a GROUP_RECORD."""
    return Mask(group.block_size, group.shift, group.need, group.period, group.prompt_ends != 0, group.hit_alignment)


@leaf
def is_reachable(mask: Mask, block: int, num_prompt: int) -> bool:
    """Return whether some allowed hit of a sliding window needs a block (fact 48).

    Args:
        mask: Mask of the group.
        block: Index of the block in the request.
        num_prompt: Tokens of the prompt; -1 if unknown.
    """
    shift, need, period = mask.shift, mask.need, mask.period
    if period > 0 and block >= shift and (block - shift) % period >= period - need:
        return True
    if mask.prompt_ends and num_prompt >= 0:
        end = (num_prompt - 1) // mask.alignment * mask.alignment // mask.block_size + shift
        return end - need <= block < end
    return False


def mask_rule(
    spec: SlidingWindowSpec, alignment: int | None, eagle: bool, retention_interval: int | None
) -> Mask | None:
    """Return which blocks of a sliding window some allowed hit would need; None if it would need all (fact 48).

    Args:
        spec: Window and block size.
        alignment: Hits end at multiples of this number of tokens; None for no mask.
        eagle: Whether the last block of a hit is dropped.
        retention_interval: Tokens between the hit lengths that stay reachable: None for every
            multiple of the alignment, 0 for only the end of the prompt.
    """
    if alignment is None:
        return None
    need = window_blocks(spec, eagle)
    period = (alignment if retention_interval is None else retention_interval) // spec.block_size
    if 0 < period <= need:
        return None
    return Mask(spec.block_size, int(eagle), need, period, retention_interval is not None, alignment)


@jit
def _mask(rule: tuple[Any, ...], start: int, end: int, num_prompt: int) -> npt.NDArray[np.bool_]:
    mask = Mask(*rule)
    reachable = np.empty(end - start, np.bool_)
    for block in range(start, end):
        reachable[block - start] = is_reachable(mask, block, num_prompt)
    return reachable


def sliding_window_mask(
    start_block: int,
    end_block: int,
    spec: SlidingWindowSpec,
    alignment: int | None,
    eagle: bool,
    retention_interval: int | None,
    num_prompt_tokens: int | None,
) -> npt.NDArray[np.bool_] | None:
    """Return which blocks of [start_block, end_block) some allowed hit would need.

    Args:
        start_block: First block.
        end_block: Block after the last.
        spec, alignment, eagle, retention_interval: As in `mask_rule`.
        num_prompt_tokens: Length of the prompt, in tokens; None if unknown.

    Returns:
        bool [end_block - start_block], or None if all blocks are needed. O(end_block - start_block).
    """
    rule = mask_rule(spec, alignment, eagle, retention_interval)
    if rule is None:
        return None
    num_prompt = -1 if num_prompt_tokens is None else num_prompt_tokens
    mask: npt.NDArray[np.bool_] = _mask(tuple(rule), start_block, max(start_block, end_block), num_prompt)
    return mask
