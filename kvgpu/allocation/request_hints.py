"""`RequestHints`: hands hints of requests to the policy of a pool, and counts what tenants keep."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kvgpu.arguments import name_of
from kvgpu.config.cache_hints import CacheHints, HintLimits, hints_of
from kvgpu.coordinators.base import KVCacheCoordinator
from kvgpu.errors import ArgumentError, ConfigError
from kvgpu.exclusive import Exclusive, exclusive
from kvgpu.integers import as_integer, as_number

if TYPE_CHECKING:
    from kvgpu.eviction.policy import Eviction

NANOSECONDS = 1_000_000_000


LATEST = 4e9
"""Seconds by a clock: with the longest lifetime after it nanoseconds still have 64 bits."""


class RequestHints(Exclusive):
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
        super().__init__(coordinator.block_pool.turn)
        self.limits, self._coordinator = limits, coordinator
        pool = coordinator.block_pool
        self._tenants: dict[str | None, int] = {tenant: place for place, tenant in enumerate(limits.shares, 1)}
        self.shares = {tenant: int(share * pool.num_gpu_blocks) for tenant, share in limits.shares.items()}
        kept, usable = sum(self.shares.values()), pool.num_gpu_blocks - 1 - pool.num_reserved_blocks
        if kept and kept + longest > usable:
            raise ConfigError(
                f"tenants keep {kept} of {usable} blocks, and the longest request needs {longest}: "
                "give them smaller shares, or the pool more blocks"
            )

    @exclusive
    def begin(self, request: Any, reserved_blocks: Any = 0) -> int:
        """Say whose request is about to take blocks; return how many must stay free, with those that tenants keep.

        Raises:
            ArgumentError, ArgumentTypeError: The number is below 0, or no integer; the hints of the request are none;
                or the clock has no time. Nothing is changed.

        O(tenants).
        """
        tenant = self._tenants.get(self._of(request).tenant, 0) if self._tenants else 0
        reserved = as_integer("reserved_blocks", reserved_blocks)
        return reserved + self._eviction.begin(self.now(), tenant)

    def begin_batch(self) -> bool:
        """Say that requests are about to take blocks; return whether each must by itself, as it matters whose. O(1)."""
        self._eviction.begin(self.now(), 0)
        return bool(self._tenants)

    def refuse_odd(self, requests: Iterable[Any]) -> None:
        """Check what requests say, before anything is changed for the first of them. O(requests).

        Raises:
            ArgumentTypeError: The hints of one are none.
        """
        for request in requests:
            self._of(request)

    def end(self, request: Any) -> None:
        """Note what a request says of the blocks that it holds, and is about to give back. O(blocks).

        Raises:
            ArgumentTypeError: Its hints are none.
        """
        self.end_all([request])

    @exclusive
    def end_all(self, requests: Iterable[Any]) -> None:
        """Do what `end` does for requests, unless one of them has odd hints: then nothing is noted. O(blocks)."""
        now = self.now()
        for name, hints in [(name_of(request), self._of(request)) for request in requests]:
            deadline = 0 if hints.lifetime is None else max(1, now + int(hints.lifetime * NANOSECONDS))
            tenant = self._tenants.get(hints.tenant, 0)
            null_id = self._coordinator.block_pool.state.null_id
            for group in self._coordinator.single_type_managers:
                table = group.req_to_blocks.get(name)
                if table is not None:
                    ids = table.ids
                    self._eviction.hint(ids[ids != null_id], hints.priority, deadline, tenant)

    def _of(self, request: Any) -> CacheHints:
        return hints_of(request, self.limits.trusts_clients)

    def now(self) -> int:
        """Return the time by the clock, in ns. O(1).

        Raises:
            ArgumentError, ArgumentTypeError: The clock gives no number, or one that is out of range.
        """
        seconds = as_number("clock", self.limits.clock())
        if not -LATEST <= seconds <= LATEST:
            raise ArgumentError(f"clock: {-LATEST:g} to {LATEST:g} seconds are expected, got {seconds}")
        return int(seconds * NANOSECONDS)

    @property
    def _eviction(self) -> "Eviction":
        eviction = self._coordinator.block_pool.eviction
        assert eviction is not None
        return eviction
