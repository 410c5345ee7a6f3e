"""What happened in the course of a replay, in few numbers: parts of the trace, and quantiles."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kvgpu.replay.result import ReplayResult
from kvgpu.report.document import SHARES

MOST_PARTS = 100
LEAST_REQUESTS = 5
"""Of a part: fewer say little about a hit rate."""


def over_time(result: ReplayResult) -> dict[str, list[Any]]:
    """Return figures of up to `MOST_PARTS` parts of the trace, as `OverTime` of the report has them. O(requests)."""
    samples = np.array(result.samples, np.float64).reshape(-1, 4)
    num_parts = min(MOST_PARTS, len(samples) // LEAST_REQUESTS)
    if not num_parts:
        return {}
    ends = np.linspace(0, len(samples), num_parts + 1).astype(np.int64)[1:]
    begins = np.concatenate([[0], ends[:-1]])
    prompt, hits, _, waited_ms = (np.add.reduceat(samples[:, column], begins) for column in range(4))
    parts = {
        "requests": ends.tolist(),
        "hit_rate": (hits / prompt).tolist(),
        "so_far": (hits.cumsum() / prompt.cumsum()).tolist(),
        "usage": samples[ends - 1, 2].tolist(),
    }
    if result.virtual_seconds is not None:
        parts["waiting_s"] = (waited_ms / (ends - begins) / 1e3).tolist()
    return parts


def quantiles(result: ReplayResult) -> dict[str, list[float]]:
    """Return the quantiles at `SHARES` of all that was measured several times. O(n log(n))."""
    found = {phase: _quantiles(seconds, 1e6) for phase, seconds in result.latencies.items() if seconds}
    if result.virtual_seconds is not None and result.samples:
        found["waiting"] = _quantiles([sample[3] for sample in result.samples], 1e-3)
    return found


def _quantiles(values: Sequence[float], unit: float) -> list[float]:
    shown: list[float] = (np.percentile(np.array(values), SHARES) * unit).tolist()
    return shown
