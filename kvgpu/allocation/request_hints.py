"""`RequestHints`: hands hints of requests to the policy of a pool, and counts what tenants keep."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kvgpu.arguments import name_of
from kvgpu.config.cache_hints import CacheHints, HintLimits, hints_of
from kvgpu.coordinators.base import KVCacheCoordinator
from kvgpu.errors import ConfigError
from kvgpu.integers import as_integer

if TYPE_CHECKING:
    from kvgpu.eviction.policy import Eviction

NANOSECONDS = 1_000_000_000


class RequestHints:
    """Hints of the requests of one manager.

    Args:
        coordinator: Of the cache groups.
        limits: What requests may ask for.
        longest: Blocks that the longest request needs.

    Attributes:
        limits: The same.
        shares: Blocks that each tenant keeps.

    Raises:
        ConfigError: What tenants keep leaves too few blocks for the longest request.

    Construction is O(tenants).
    """

    def __init__(self, coordinator: KVCacheCoordinator, limits: HintLimits, longest: int) -> None:
        self.limits, self._coordinator = limits, coordinator
        pool = coordinator.block_pool
        self._tenants = {tenant: place for place, tenant in enumerate(limits.shares, 1)}
        self.shares = {tenant: int(share * pool.num_gpu_blocks) for tenant, share in limits.shares.items()}
        kept, usable = sum(self.shares.values()), pool.num_gpu_blocks - 1 - pool.num_reserved_blocks
        if kept and kept + longest > usable:
            raise ConfigError(
                f"tenants keep {kept} of {usable} blocks, and the longest request needs {longest}: "
                "give them smaller shares, or the pool more blocks"
            )

    def begin(self, request: Any, reserved_blocks: Any = 0) -> int:
        """Say whose request is about to take blocks; return how many must stay free, with those that tenants keep.

        Raises:
            ArgumentError, ArgumentTypeError: The number is below 0, or no integer; the hints of the request are none.

        O(tenants).
        """
        tenant = self._tenants.get(self._of(request).tenant or "", 0) if self._tenants else 0
        reserved = as_integer("reserved_blocks", reserved_blocks)
        return reserved + self._eviction.begin(self._now(), tenant)

    def begin_batch(self) -> bool:
        """Say that requests are about to take blocks; return whether each must by itself, as it matters whose. O(1)."""
        self._eviction.begin(self._now(), 0)
        return bool(self._tenants)

    def end(self, request: Any) -> None:
        """Note what a request says of the blocks that it holds, and is about to give back. O(blocks).

        Raises:
            ArgumentTypeError: Its hints are none.
        """
        self.end_all([request])

    def end_all(self, requests: Iterable[Any]) -> None:
        """Do what `end` does for requests, unless one of them has odd hints: then nothing is noted. O(blocks)."""
        for name, hints in [(name_of(request), self._of(request)) for request in requests]:
            deadline = 0 if hints.lifetime is None else max(1, self._now() + int(hints.lifetime * NANOSECONDS))
            tenant = self._tenants.get(hints.tenant or "", 0)
            null_id = self._coordinator.block_pool.state.null_id
            for group in self._coordinator.single_type_managers:
                table = group.req_to_blocks.get(name)
                if table is not None:
                    ids = table.ids
                    self._eviction.hint(ids[ids != null_id], hints.priority, deadline, tenant)

    def _of(self, request: Any) -> CacheHints:
        return hints_of(request, self.limits.trusts_clients)

    def _now(self) -> int:
        return int(self.limits.clock() * NANOSECONDS)

    @property
    def _eviction(self) -> "Eviction":
        eviction = self._coordinator.block_pool.eviction
        assert eviction is not None
        return eviction
