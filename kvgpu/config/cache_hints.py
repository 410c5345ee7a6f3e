"""`CacheHints`: what a request says of the blocks that it leaves behind. `HintLimits`: what an operator allows."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kvgpu.errors import ArgumentError, ArgumentTypeError, ConfigError
from kvgpu.integers import as_integer, as_number, as_option, shown

logger = logging.getLogger(__name__)

USUAL_PRIORITY, MOST_PRIORITY = 35, 100
"""Priority of a request that says nothing, and the highest; TensorRT-LLM has both numbers, too."""

LONGEST_LIFETIME = 1e9
"""Seconds: some 30 years."""

MOST_TENANTS = 1000
"""Each has a list, and lists are numbered in 16 bits."""


@dataclass(frozen=True)
class CacheHints:
    """How long the cached blocks of a request are of use, and to whom.

    Args:
        priority: 0 to 100. Cached blocks that nobody uses are evicted by priority, lowest first; those of equal
            priority in the order of the pool. A block has the highest one of the requests that used it.
        lifetime: Seconds after the request has left its blocks, by the clock of the manager. A block that nobody has
            used for so long has priority 0 from then on, but may still be hit. None for no end. The latest end of the
            requests that used a block counts.
        tenant: Whose blocks these are, for tenants with a share (see `HintLimits`). A block stays with its first one.

    Raises:
        ArgumentError, ArgumentTypeError: A value is out of range, or has the wrong type.
    """

    priority: int = USUAL_PRIORITY
    lifetime: float | None = None
    tenant: str | None = None

    def __post_init__(self) -> None:
        # Plain numbers from here on: what a client sends goes to compiled code.
        object.__setattr__(self, "priority", as_integer("priority", self.priority, 0, MOST_PRIORITY))
        if self.lifetime is not None:
            object.__setattr__(self, "lifetime", as_number("lifetime", self.lifetime))
            if not 0 <= self.lifetime <= LONGEST_LIFETIME:
                raise ArgumentError(f"lifetime: 0 to {LONGEST_LIFETIME:g} seconds are expected, got {self.lifetime}")
        if self.tenant is not None and not isinstance(self.tenant, str):
            raise ArgumentTypeError(f"tenant: text is expected, got {shown(self.tenant)}")


NO_HINTS = CacheHints()
NAME = "cache_hints"
"""Attribute of a request, and key of what a client may send beside a request to vLLM."""


@dataclass(frozen=True)
class HintLimits:
    """Has requests give hints, within these limits.

    Args:
        shares: Fraction of the pool that each tenant keeps: requests of others never evict its cached blocks below
            this, and do not get slots if they would have to.
        max_pinned: Fraction of the pool that may be pinned.
        trusts_clients: Whether hints that a client has sent along count, too; any client may then name any priority
            and any tenant, unless something in front of the engine checks it.
        clock: Returns seconds; lifetimes are counted by it.

    Raises:
        ConfigError: A fraction is not within 0.0 and 1.0, all shares together are more than 1.0, or there are more than
            1,000 tenants.
        ArgumentTypeError: A fraction is no number.
    """

    shares: Mapping[str, float] = field(default_factory=dict)
    max_pinned: float = 0.5
    trusts_clients: bool = False
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        if not isinstance(self.shares, Mapping) or not all(isinstance(tenant, str) for tenant in self.shares):
            raise ConfigError(f"shares: a mapping from tenants to fractions is expected, got {shown(self.shares)}")
        if len(self.shares) > MOST_TENANTS:
            raise ConfigError(f"shares: at most {MOST_TENANTS} tenants are expected, got {len(self.shares)}")
        shares = {tenant: _fraction(f"share of {tenant}", share) for tenant, share in self.shares.items()}
        object.__setattr__(self, "shares", shares)
        object.__setattr__(self, "max_pinned", _fraction("max_pinned", self.max_pinned))
        if sum(self.shares.values()) > 1:
            raise ConfigError(f"the shares of all tenants are more than the pool: {sum(self.shares.values())}")
        as_option("trusts_clients", self.trusts_clients)
        if not callable(self.clock):
            raise ConfigError(f"clock: a function is expected, got {shown(self.clock)}")


def _fraction(name: str, value: Any) -> float:
    """
    Raises:
        ArgumentTypeError: The value is not a number.
        ConfigError: It is no fraction.
    """
    fraction = as_number(name, value)
    if not 0 <= fraction <= 1:
        raise ConfigError(f"{name:.100}: a fraction from 0.0 to 1.0 is expected, got {fraction}")
    return fraction


def hints_of(request: Any, trusts_clients: bool) -> CacheHints:
    """Return what a request says of its blocks: its attribute `cache_hints`, or what a client has sent along. O(1).

    A client sends `cache_hints` in the `kv_transfer_params` of a request, or in the `extra_args` of its sampling
    parameters: a mapping with the fields of `CacheHints`. A bad one counts as none.

    Raises:
        ArgumentTypeError: The attribute is something else than `CacheHints`.
    """
    hints = getattr(request, NAME, None)
    if hints is None:
        sent = _sent_with(request) if trusts_clients else None
        return NO_HINTS if sent is None else _of_client(sent)
    if not isinstance(hints, CacheHints):
        raise ArgumentTypeError(f"{NAME}: CacheHints are expected, got {shown(hints)}")
    return hints


def _sent_with(request: Any) -> Any:
    for parameters in (
        getattr(request, "kv_transfer_params", None),
        getattr(getattr(request, "sampling_params", None), "extra_args", None),
    ):
        if isinstance(parameters, dict) and NAME in parameters:
            return parameters[NAME]
    return None


def _of_client(sent: Any) -> CacheHints:
    try:
        return CacheHints(**sent)
    except (ArgumentError, TypeError) as error:
        logger.debug("hints of a client are left out: %s", error)
        return NO_HINTS
