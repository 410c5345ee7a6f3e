"""Which positions of a prompt stay cached where not all of it does: the interval, and what it makes of each group."""

from collections.abc import Sequence

from kvgpu.config.behaviour import Behaviour
from kvgpu.errors import ConfigError
from kvgpu.groups.base import SingleTypeKVCacheManager
from kvgpu.groups.mamba import MambaManager
from kvgpu.groups.sliding_window import SlidingWindowManager
from kvgpu.rules.allocation import NO_CAP
from kvgpu.rules.retention import NO_ENDS, Mask

NO_MASK = (0,) * (len(Mask._fields) - 1)
"""Fields of a GROUP_RECORD for a group that keeps all blocks."""


def checked_retention(
    interval: int | None, managers: Sequence[SingleTypeKVCacheManager], scheduler_block_size: int, behaviour: Behaviour
) -> int | None:
    """Return the retention interval of a model, in tokens (facts 48 and B60).

    Args:
        interval: What was configured; None to keep all that some hit needs.
        managers: Of the groups.
        scheduler_block_size: Hits of the whole model are multiples of this number of tokens.
        behaviour: Which groups an interval is about.

    Raises:
        ConfigError: The interval is below 0 or not a multiple of the scheduler block size, or there is no group
            that it is about. In behaviour 0.33 the interval 0 is allowed there.
    """
    sparse = (SlidingWindowManager, MambaManager) if behaviour.thins_states else SlidingWindowManager
    is_sparse = any(isinstance(manager, sparse) for manager in managers)
    if interval is None or (interval == 0 and behaviour.configures_retention and not is_sparse):
        return interval
    if interval < 0:
        raise ConfigError(f"the retention interval must be non-negative, got {interval}")
    if interval % scheduler_block_size:
        raise ConfigError(
            f"the retention interval {interval} must be a multiple of scheduler_block_size {scheduler_block_size}"
        )
    if not is_sparse:
        kinds = "sliding-window or Mamba" if behaviour.thins_states else "sliding-window"
        raise ConfigError(f"the retention interval {interval} is about no group: there is no {kinds} group")
    return interval


def group_record(
    manager: SingleTypeKVCacheManager, alignment: int, interval: int | None, num_behind: int
) -> tuple[int, ...]:
    """Return the fields of the GROUP_RECORD of a group.

    Args:
        manager: Of the group.
        alignment: Only whole multiples of this number of tokens are cached; 0 if all tokens are.
        interval: From `checked_retention`.
        num_behind: Tokens at the end that a drafter may compute again.
    """
    cap = manager.max_admission_blocks_per_request
    mask = manager.mask_rule(interval)
    if not manager.kv_cache_spec.prefix_cacheable:
        mask = Mask(manager.block_size, shift=0, need=0, period=0, ends=NO_ENDS, alignment=manager.block_size, eagle=0)
    return (
        manager.rule_kind,
        manager.block_size,
        manager.extent,
        manager.kv_cache_group_id,
        NO_CAP if cap is None else cap,
        alignment,
        manager.use_eagle,
        mask is None,
        *(NO_MASK if mask is None else mask[1:]),
        manager.splits_freed_blocks,
        num_behind,
    )
