"""Which full blocks are worth keeping for reuse: functions of positions only."""

import numpy as np
import numpy.typing as npt

from kvgpu.specs import SlidingWindowSpec, cdiv


def window_blocks(spec: SlidingWindowSpec, eagle: bool) -> int:
    """Cached blocks in a row that a hit needs: those the window of the next token reaches.

    One more with EAGLE, whose last block is computed again.
    """
    return cdiv(spec.sliding_window - 1, spec.block_size) + eagle


def sliding_window_mask(
    start_block: int,
    end_block: int,
    spec: SlidingWindowSpec,
    alignment: int | None,
    eagle: bool,
    retention_interval: int | None,
    num_prompt_tokens: int | None,
) -> npt.NDArray[np.bool_] | None:
    """Blocks of [start_block, end_block) that some allowed hit would need (fact 48).

    Args:
        start_block: First block.
        end_block: Block after the last.
        spec: Window and block size.
        alignment: Hits end at multiples of so many tokens; None for no mask.
        eagle: Whether the last block of a hit is dropped.
        retention_interval: Tokens between the hit lengths that are kept reachable: None for every
            multiple of the alignment, 0 for none but the end of the prompt.
        num_prompt_tokens: Length of the prompt, in tokens.

    Returns:
        bool [end_block - start_block], or None if all are kept. O(end_block - start_block).
    """
    if alignment is None:
        return None
    size = spec.block_size
    need = window_blocks(spec, eagle)
    shift = int(eagle)
    period = (alignment if retention_interval is None else retention_interval) // size
    if 0 < period <= need:
        return None
    blocks = np.arange(start_block, end_block)
    if period:
        keep = (blocks >= shift) & ((blocks - shift) % period >= period - need)
    else:
        keep = np.zeros(len(blocks), np.bool_)
    if retention_interval is not None and num_prompt_tokens is not None:
        end = (num_prompt_tokens - 1) // alignment * alignment // size + shift
        keep |= (blocks >= end - need) & (blocks < end)
    return keep
