"""`SchedulerLimits`: the bounds of a step of the replay, its clock, and how much of a prompt a step computes."""

from dataclasses import dataclass
from typing import Any

from kvgpu.batch.admission import check_policy
from kvgpu.errors import ConfigError
from kvgpu.replay.traces.ranges import check_finite, check_whole
from kvgpu.rules.retention import state_to_keep

LONGEST_MS = 1e12
"""Largest wait or step: 30 years, far below the 2**53 ms from which a clock would lose its fractions."""


@dataclass(frozen=True)
class SchedulerLimits:
    """Bounds of one step, and the clock.

    max_running: most requests served at a time. max_batched_tokens: most tokens computed per step. decode: whether
    requests generate their output. virtual_time: requests arrive at the times of the trace, counted from its first
    arrival, and a step takes step_ms + token_us * tokens; otherwise they arrive as fast as they can be served.
    chunk_multiple: chunks of a prompt end at multiples of this number of tokens, up to the last multiple in it.
    ends_at_hits: they end where behaviour 0.33 keeps states, see `chunk`. policy: order of admission. age_limit_ms: a
    request that has waited longer goes first with `longest-prefix`, and is not held back with `hold-back`.
    """

    max_running: int = 256
    max_batched_tokens: int = 8192
    decode: bool = True
    virtual_time: bool = False
    step_ms: float = 10.0
    token_us: float = 10.0
    chunk_multiple: int = 1
    ends_at_hits: bool = False
    policy: str = "fcfs"
    age_limit_ms: float = 60_000.0

    def __post_init__(self) -> None:
        check_policy(self.policy)
        for name in ("max_running", "max_batched_tokens", "chunk_multiple"):
            check_whole(name, getattr(self, name))
        for name in ("step_ms", "token_us", "age_limit_ms"):
            check_finite(name, getattr(self, name), LONGEST_MS)
        if self.step_ms + self.token_us == 0:
            raise ConfigError("a step must take time: step_ms + token_us must be above 0")
        if self.chunk_multiple > self.max_batched_tokens:
            raise ConfigError(
                f"max_batched_tokens {self.max_batched_tokens} must be at least the block size "
                f"{self.chunk_multiple} of aligned Mamba groups"
            )

    def chunk(self, request: Any, num_computed: int, budget: int) -> int:
        """Return the number of tokens of a request to compute next; 0 if the budget does not reach a boundary. O(1).

        If only states at boundaries can be cached, each chunk ends at a boundary, up to and including the last boundary
        of the request (fact 41). With `ends_at_hits` the last boundary is that which the same prompt can hit (B86), a
        chunk also ends at the last boundary before a junction (B66), and the rest of a prompt is one chunk.

        Args:
            request: Has `num_tokens`; with `ends_at_hits` also `num_prompt_tokens` and `shared_prefix_boundary`.
            num_computed: Tokens of it that are computed, or hit.
            budget: Most tokens of the chunk.
        """
        num_tokens = request.num_tokens
        end = min(num_tokens, num_computed + budget)
        if self.ends_at_hits:
            end = self._end_at_hits(request, num_computed, end)
        else:
            boundary = num_tokens // self.chunk_multiple * self.chunk_multiple
            if num_computed < boundary:
                end = max(min(end, boundary) // self.chunk_multiple * self.chunk_multiple, num_computed)
        return int(end) - num_computed

    def _end_at_hits(self, request: Any, start: int, end: int) -> int:
        """Return where a chunk ends that could reach from `start` to `end`, in tokens."""
        unit = self.chunk_multiple
        # A request that was preempted computes its output again, but for the last token, as a prompt.
        prompt_end = max(request.num_prompt_tokens, request.num_tokens - 1)
        if start >= prompt_end:
            return end
        if end < prompt_end:
            end = max(end // unit * unit, start)
        junction = request.shared_prefix_boundary
        stops = [state_to_keep(request.num_tokens, unit, drops=False, lookahead=0)]
        if start < junction < end:
            stops.append(start + (junction - start) // unit * unit)
        return min((stop for stop in stops if start < stop < end), default=end)
