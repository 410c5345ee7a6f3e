"""`Run`: the JSON of one replay, as `kvgpu replay --json` writes it."""

from pathlib import Path
from typing import Any

import msgspec

from kvgpu.errors import ConfigError

BOUND = "belady"
"""In the place of an order of eviction: the most that any of them could hit."""

SHARES = (0, 1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99, 99.5, 99.9, 100)
"""Of the values, in percent, that are no larger than each quantile."""

LARGEST = 1 << 26
"""Most bytes of a file that is read: thousands of orders of eviction and pools."""


class Order(msgspec.Struct):
    """What one order of eviction did with one pool; None where a bound has no such figure, or there is no bound."""

    eviction: str
    num_blocks: int
    hit_rate: float | None
    computed_tokens: int | None = None
    recomputed_tokens: int | None = None
    evictions: int | None = None
    early_evictions: int | None = None
    preemptions: int | None = None


class OverTime(msgspec.Struct):
    """Parts of the trace, each up to so many requests: hit rate in it and up to its end, usage of the pool at its end,
    seconds that its requests waited on average."""

    requests: list[int] = []
    hit_rate: list[float] = []
    so_far: list[float] = []
    usage: list[float] = []
    waiting_s: list[float] = []


class Snapshot(msgspec.Struct):
    """Blocks that were cached before the first request, and the hit rate without them; None after a cold start."""

    loaded_blocks: int | None = None
    cold_hit_rate: float | None = None


class Run(msgspec.Struct):
    """What one replay did. Fields that older files lack have defaults.

    quantiles: by what was measured, values that `SHARES` percent do not exceed; latencies in microseconds
    and waiting times in seconds.
    """

    trace: str
    requests: int
    prompt_tokens: int
    hit_tokens: int
    hit_rate: float
    ideal_hit_rate: float
    num_blocks: int
    rejected: int = 0
    blocks: int = 0
    output_tokens: int = 0
    computed_tokens: int = 0
    recomputed_tokens: int | None = None
    steps: int = 0
    evictions: int = 0
    early_evictions: int | None = None
    preemptions: int = 0
    peak_usage: float = 0.0
    pool_bytes_per_block: float = 0.0
    bad_lines: int = 0
    seconds: dict[str, float] = {}
    us_per_block: dict[str, float | None] = {}
    handled: dict[str, int] = {}
    virtual_seconds: float | None = None
    waiting_ms: dict[str, float] | None = None
    backend: str = ""
    behaviour: str = "0.23"
    eviction: str = "lru"
    git: str = ""
    settings: dict[str, Any] = {}
    orders_of_eviction: list[Order] = []
    over_time: OverTime = msgspec.field(default_factory=OverTime)
    quantiles: dict[str, list[float]] = {}
    snapshot: Snapshot | None = None

    @property
    def cold_hit_rate(self) -> float:
        """The hit rate of a pool that is empty at the beginning. O(1)."""
        cold = None if self.snapshot is None else self.snapshot.cold_hit_rate
        return self.hit_rate if cold is None else cold

    def sizes(self) -> list[int]:
        """Return the sizes of pools with an outcome, ascending. O(orders log(orders))."""
        return sorted({order.num_blocks for order in self.orders_of_eviction})

    def at(self, num_blocks: int, eviction: str | None = None) -> Order | None:
        """Return the outcome for a pool of this size, of the run's own order unless another is named. O(orders)."""
        name = self.eviction if eviction is None else eviction
        for order in self.orders_of_eviction:
            if (order.eviction, order.num_blocks) == (name, num_blocks):
                return order
        return None


def run_of(summary: dict[str, Any]) -> Run:
    """Return the run of what `--json` writes, before it is written. O(fields)."""
    return msgspec.convert(summary, Run)


def read_run(path: Path) -> Run:
    """Read the JSON of a replay.

    Raises:
        ConfigError: It is not the JSON of a replay.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        text = file.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise ConfigError(f"{path}: too large for the JSON of a replay")
    try:
        return msgspec.json.decode(text, type=Run)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not what `kvgpu replay --json` writes: {error}") from None
