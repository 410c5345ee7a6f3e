"""`CacheCalls`: what an operator says about what stays cached: pins, evictions and resets."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from kvgpu.arguments import checked_name, hashes_of, name_of
from kvgpu.blocks.record import NO_IDS, Ids
from kvgpu.config.cache_hints import HintLimits
from kvgpu.coordinators.base import KVCacheCoordinator
from kvgpu.errors import ArgumentError, PinLimitError
from kvgpu.exclusive import exclusive
from kvgpu.integers import as_integer
from kvgpu.interface.transfer_calls import TransferCalls


class CacheCalls(TransferCalls):
    """The part of `KVCacheManager` that decides what stays cached beside the order of eviction."""

    @property
    def num_pinned_blocks(self) -> int:
        """Number of blocks that are pinned. O(pinned blocks)."""
        return len(self._pinned_with(NO_IDS))

    @property
    def _pins(self) -> dict[str, Ids]:
        return self.block_pool.holders.pins

    @exclusive
    def pin(self, request: Any, num_tokens: int | None = None) -> int:
        """Keep the cached prefix of a request until `unpin`, whatever else needs blocks.

        In groups with a window or with states, what a hit of just this length needs is kept.

        Args:
            request: Has `request_id`, which names the pin, `block_hashes` and `num_tokens`. It need not be served.
            num_tokens: Keep at most so many tokens; None for all.

        Returns:
            The number of tokens that are kept, which are a whole number of blocks; with 0 there is no pin.

        Raises:
            ArgumentError, ArgumentTypeError: There is a pin of this name; or an argument is odd.
            PinLimitError: More than `HintLimits.max_pinned` of the pool would be pinned; or the longest request that
                the model allows would not find room beside pins and what tenants keep. None of these changes anything.

        Expected O(blocks of the prefix + pinned blocks).
        """
        name = checked_name(name_of(request))
        if name in self._pins:
            raise ArgumentError(f"there is a pin {name!r:.100} already: unpin it first")
        longest = as_integer("num_tokens", getattr(request, "num_tokens", None) if num_tokens is None else num_tokens)
        if not self.enable_caching:
            return 0
        blocks, num_hits, _ = self.lookups.find_hits(request, hashes_of(request, name, 0), longest)
        state = self.block_pool.state
        ids = np.concatenate([NO_IDS, *(state.ids_of(each) for each in blocks)]).astype(np.int32)
        ids = np.unique(ids[ids != state.null_id])
        if num_hits == 0 or len(ids) == 0:
            return 0
        self._refuse_beyond_limit(len(self._pinned_with(ids)))
        self.block_pool.allocator.take_hits(ids)
        self._pins[name] = ids
        return int(num_hits)

    @exclusive
    def unpin(self, request_id: str) -> bool:
        """Give a pin up; its blocks stay cached until they are evicted. Return whether there was one. O(its blocks)."""
        ids = self._pins.pop(checked_name(request_id), None)
        if ids is not None:
            self.block_pool.allocator.give_back(ids, backwards=True)
        return ids is not None

    @exclusive
    def evict_blocks(self, block_ids: Iterable[int]) -> None:
        """Forget the hashes of blocks, as when loading them has failed; see `BlockPool.evict_blocks`. O(ids)."""
        self.block_pool.evict_blocks(block_ids)

    @exclusive
    def reset_prefix_cache(self) -> bool:
        """Forget all cached blocks and pins; return False and change nothing while requests hold any blocks.

        O(blocks of the pool).
        """
        pool = self.block_pool
        used = pool.num_gpu_blocks - 1 - pool.num_reserved_blocks - pool.get_num_free_blocks()
        if self._pins and used == self.num_pinned_blocks:
            groups = self.coordinator.single_type_managers
            if any(len(blocks) for group in groups for blocks in group.req_to_blocks.values()):
                return False  # all blocks that are in use are pinned, and requests hold some of them
            for name in list(self._pins):
                self.unpin(name)
        reset = pool.reset_prefix_cache()
        if reset and self.prefix_cache_stats is not None:
            self.prefix_cache_stats.reset = True
        return reset

    def _pinned_with(self, ids: Ids) -> Ids:
        """Return the ids of all pinned blocks, and of these, each once."""
        return np.unique(np.concatenate([ids, *self._pins.values()]))

    def _refuse_beyond_limit(self, num_pinned: int) -> None:
        """Check that so many blocks may be pinned.

        Raises:
            PinLimitError: They may not.
        """
        pool, hints = self.block_pool, self.hints
        limits = HintLimits() if hints is None else hints.limits
        most = int(limits.max_pinned * pool.num_gpu_blocks)
        if num_pinned > most:
            raise PinLimitError(f"{num_pinned} blocks would be pinned, and {most} may be: raise HintLimits.max_pinned")
        kept = 0 if hints is None else sum(hints.shares.values())
        needed = blocks_of_longest(self.coordinator)
        usable = pool.num_gpu_blocks - 1 - pool.num_reserved_blocks
        if num_pinned + kept + needed > usable:
            raise PinLimitError(
                f"{num_pinned} blocks would be pinned of {usable}, and tenants keep {kept}: a request of max_model_len "
                f"tokens needs {needed}, and would wait for ever"
            )


def blocks_of_longest(coordinator: KVCacheCoordinator) -> int:
    """Return how many blocks the longest request needs that the model allows. O(groups)."""
    longest = coordinator.max_model_len
    nobody = "\0the longest request"
    no_hits = [NO_IDS for _ in coordinator.single_type_managers]
    return coordinator.get_num_blocks_to_allocate(nobody, longest, no_hits, longest, 0, longest, True)
