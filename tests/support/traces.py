"""Short ways to make traces, to replay them, and to see what a scheduler asked of its manager."""

import json
from collections.abc import Iterable
from typing import Any, NamedTuple
from unittest.mock import patch

from hypothesis import strategies as st

from kvgpu.manager import KVCacheManager
from kvgpu.replay.limits import SchedulerLimits
from kvgpu.replay.result import ReplayResult
from kvgpu.replay.run import Replayer, ReplayOptions
from kvgpu.replay.scheduler import EventSink
from kvgpu.replay.traces.trace import Trace, from_requests

BLOCK = 4
"""Tokens of one hash id, and of one block, unless a test says otherwise."""

SMALL_REPLAY = ["--num-blocks", "2000", "--limit", "12"]
"""Options with which the command replays the first few requests of a trace, in a small pool."""


class Grant(NamedTuple):
    """One successful `allocate_slots`."""

    request: str
    tokens: int
    hits: int


class RecordingManager(KVCacheManager):
    """Notes, per scheduler step, what was granted, refused and freed, and the pool's usage.

    running: number of requests that hold blocks, after each grant.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.grants: list[list[Grant]] = []
        self.refused: list[list[str]] = []
        self.freed: list[list[str]] = []
        self.running: list[int] = []
        self.highest_usage = 0.0
        self._alive: set[str] = set()

    def new_step_starts(self) -> None:
        super().new_step_starts()
        for steps in (self.grants, self.refused, self.freed):
            steps.append([])

    def allocate_slots(self, request: Any, num_new_tokens: int, num_hits: int = 0, *args: Any, **kwargs: Any) -> Any:
        blocks = super().allocate_slots(request, num_new_tokens, num_hits, *args, **kwargs)
        if blocks is None:
            self.refused[-1].append(request.request_id)
            return None
        self.grants[-1].append(Grant(request.request_id, num_new_tokens, num_hits))
        self._alive.add(request.request_id)
        self.running.append(len(self._alive))
        self.highest_usage = max(self.highest_usage, self.usage)
        return blocks

    def free(self, request: Any) -> None:
        super().free(request)
        self.freed[-1].append(request.request_id)
        self._alive.discard(request.request_id)

    def tokens_of(self, request: str) -> list[int]:
        """Tokens granted to one request, call by call."""
        return [g.tokens for step in self.grants for g in step if g.request == request]


def distinct(*lengths: tuple[int, int], arrivals: Iterable[float] = ()) -> Trace:
    """Requests of (input, output) tokens that share nothing."""
    rows, next_id = [], 0
    times = [*arrivals] or [0.0] * len(lengths)
    for arrival, (num_input, num_output) in zip(times, lengths, strict=True):
        count = -(-num_input // BLOCK)
        rows.append((arrival, num_input, num_output, range(next_id, next_id + count)))
        next_id += count
    return from_requests("distinct", BLOCK, [(a, i, o, list(ids)) for a, i, o, ids in rows])


def serve(
    trace: Trace,
    num_blocks: int = 1000,
    block_size: int = BLOCK,
    groups: str = "full",
    sink: EventSink | None = None,
    behaviour: str = "0.23",
    retention_interval: int | None = 0,
    eviction: str = "lru",
    follows_blocks: bool = False,
    **limits: Any,
) -> tuple[ReplayResult, RecordingManager]:
    """Replay a trace; the result, and what the manager saw, which counts lookups."""
    made: list[RecordingManager] = []

    def make(*args: Any, **kwargs: Any) -> RecordingManager:
        made.append(RecordingManager(*args, **kwargs, log_stats=True))
        return made[-1]

    options = ReplayOptions(
        num_blocks=num_blocks,
        block_size=block_size,
        groups=groups,
        limits=SchedulerLimits(**limits),
        behaviour=behaviour,
        retention_interval=retention_interval,
        eviction=eviction,
    )
    with patch("kvgpu.replay.run.KVCacheManager", make):
        result = Replayer(trace, options, follows_blocks=follows_blocks).run(sink=sink)
    return result, made[0]


def line(**fields: Any) -> bytes:
    """One line of a trace, good unless a field says otherwise; a field given as `...` is left out."""
    good = {"timestamp": 0, "input_length": 10, "output_length": 1, "hash_ids": [1]}
    kept = {k: v for k, v in (good | fields).items() if v is not ...}
    return json.dumps(kept).encode()


@st.composite
def shared_prefixes(draw: st.DrawFn, per_id: int = 8) -> Trace:
    """A trace in which equal ids stand for equal prefixes, as in published ones."""
    ids: dict[tuple[int, ...], int] = {}
    rows = []
    paths = draw(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=5), min_size=1))
    for path in paths:
        prompt = [ids.setdefault(tuple(path[: end + 1]), len(ids)) for end in range(len(path))]
        missing = draw(st.integers(0, per_id - 1))
        rows.append((0.0, len(path) * per_id - missing, 0, prompt))
    return from_requests("shared", per_id, rows)
