"""What a replay measured."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

PHASES = ("hash", "lookup", "allocate", "free", "decode", "order")
"""`allocate` is the allocation of prompts, caching included; `decode` that of single generated tokens; `order` is the
arranging of the waiting queue."""


@dataclass
class ReplayResult:
    """Counts, times and series of one replay.

    hit_tokens: of the first admission of each request. computed_tokens: of all steps, those that a preempted request
    computes again included. recomputed_tokens: those that an endless cache would have had, and those that a preempted
    request had computed before. early_evictions: blocks that a prompt asked for within a minute after they were
    evicted; None if nobody followed them.
    seconds, blocks_of: per phase, time spent and blocks handled (calls for decode, requests for order). samples: one
    entry per admitted request: prompt tokens, hit tokens, usage of the pool, waiting time in virtual ms. latencies:
    seconds of each lookup and of each allocation that admitted a request.
    """

    num_blocks: int
    requests: int = 0
    rejected: int = 0
    prompt_tokens: int = 0
    hit_tokens: int = 0
    ideal_hit_tokens: int = 0
    prompt_blocks: int = 0
    output_tokens: int = 0
    computed_tokens: int = 0
    recomputed_tokens: int = 0
    steps: int = 0
    evictions: int = 0
    early_evictions: int | None = None
    preemptions: int = 0
    peak_usage: float = 0.0
    pool_bytes_per_block: float = 0.0
    backend: str = ""
    behaviour: str = ""
    eviction: str = ""
    virtual_seconds: float | None = None
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    blocks_of: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PHASES, 0))
    samples: list[tuple[int, int, float, float]] = field(default_factory=list)
    latencies: dict[str, list[float]] = field(default_factory=lambda: {"lookup": [], "allocate": []})

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time of the `with` block to a phase."""
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += perf_counter() - start

    @property
    def hit_rate(self) -> float:
        return self.hit_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def ideal_hit_rate(self) -> float:
        return self.ideal_hit_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def us_per_block(self) -> dict[str, float | None]:
        """Microseconds per block handled, by phase (`decode`: per call, `order`: per request); None without any."""
        return {
            phase: 1e6 * self.seconds[phase] / self.blocks_of[phase] if self.blocks_of[phase] else None
            for phase in PHASES
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the counts and rates, without the series, for JSON."""
        waits = sorted(sample[3] for sample in self.samples)
        return {
            "requests": self.requests,
            "rejected": self.rejected,
            "prompt_tokens": self.prompt_tokens,
            "hit_tokens": self.hit_tokens,
            "hit_rate": self.hit_rate,
            "ideal_hit_rate": self.ideal_hit_rate,
            "blocks": self.prompt_blocks,
            "num_blocks": self.num_blocks,
            "output_tokens": self.output_tokens,
            "computed_tokens": self.computed_tokens,
            "recomputed_tokens": self.recomputed_tokens,
            "steps": self.steps,
            "evictions": self.evictions,
            "early_evictions": self.early_evictions,
            "preemptions": self.preemptions,
            "peak_usage": self.peak_usage,
            "seconds": self.seconds,
            "us_per_block": self.us_per_block,
            "handled": self.blocks_of,
            "pool_bytes_per_block": self.pool_bytes_per_block,
            "backend": self.backend,
            "behaviour": self.behaviour,
            "eviction": self.eviction,
            "virtual_seconds": self.virtual_seconds,
            "waiting_ms": None
            if self.virtual_seconds is None or not waits
            else {"mean": sum(waits) / len(waits), "p50": waits[len(waits) // 2], "p99": waits[len(waits) * 99 // 100]},
        }
