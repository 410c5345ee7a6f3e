"""Which full blocks are worth keeping for reuse: functions of positions only."""

from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.jit import jit
from kvgpu.rules.allocation import Mask, is_reachable
from kvgpu.specs import SlidingWindowSpec, cdiv


def window_blocks(spec: SlidingWindowSpec, eagle: bool) -> int:
    """Cached blocks in a row that a hit needs: those the window of the next token reaches.

    One more with EAGLE, whose last block is computed again.
    """
    return cdiv(spec.sliding_window - 1, spec.block_size) + eagle


def mask_rule(
    spec: SlidingWindowSpec, alignment: int | None, eagle: bool, retention_interval: int | None
) -> Mask | None:
    """Which blocks of a sliding window some allowed hit would need; None for all (fact 48).

    Args:
        spec: Window and block size.
        alignment: Hits end at multiples of so many tokens; None for no mask.
        eagle: Whether the last block of a hit is dropped.
        retention_interval: Tokens between the hit lengths that are kept reachable: None for every
            multiple of the alignment, 0 for none but the end of the prompt.
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
    """Blocks of [start_block, end_block) that some allowed hit would need.

    Args:
        start_block: First block.
        end_block: Block after the last.
        spec, alignment, eagle, retention_interval: As in `mask_rule`.
        num_prompt_tokens: Length of the prompt, in tokens; None if not known.

    Returns:
        bool [end_block - start_block], or None if all are kept. O(end_block - start_block).
    """
    rule = mask_rule(spec, alignment, eagle, retention_interval)
    if rule is None:
        return None
    num_prompt = -1 if num_prompt_tokens is None else num_prompt_tokens
    mask: npt.NDArray[np.bool_] = _mask(tuple(rule), start_block, max(start_block, end_block), num_prompt)
    return mask
