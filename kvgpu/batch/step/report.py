"""`StepReport`: how a step ended, what it can take and what it has done."""

from typing import Any, NamedTuple

import numpy as np

from kvgpu.compiled.jit import leaf

DONE, UNPREPARED = 0, 9
"""How a step ends if nothing is wrong: it was done, or room has to be made before (`BatchManager`)."""

FREED, NO_TOKENS, NO_HASHES, HASHED, TOO_NARROW, TOO_LONG, UNHELD = 3, 4, 5, 6, 7, 8, 10
"""What is wrong with a row, besides what `check_row` finds.

FREED: it has lost its blocks. NO_TOKENS: it asks for none. NO_HASHES: it has fewer hashes than full blocks. HASHED: a
block to be cached has a hash already. TOO_NARROW: it needs more blocks than the caller's block tables have columns.
TOO_LONG: it would be longer than the model allows. UNHELD: it says that more of its tokens are computed than it holds
blocks for.
"""


class StepReport(NamedTuple):
    """What a step says; compiled code writes it to a STEP_REPORT record."""

    status: int
    place: int
    """Of the first row that something is wrong with."""
    num_tried: int
    """Rows that were tried."""
    num_changed: int
    """Rows whose blocks changed."""
    num_kept: int
    """Those of them that got slots."""
    segments: int
    """Upper bound of the ids that the step takes from the store."""
    changes: int
    """Upper bound of its notes in the journal."""
    num_waiting: int
    """Rows that hold nothing yet."""
    longest: int
    """Hashes of the longest of those."""
    num_busy: int
    """Rows that need something."""
    new_keys: int
    """Keys that the index gained."""
    num_evicted: int
    first_requests: int
    """Lookups of requests that were not preempted, their tokens, and tokens of their hits (see `PrefixCacheStats`)."""
    first_queries: int
    first_hits: int
    preempted_requests: int
    """The same after a preemption."""
    preempted_queries: int
    preempted_hits: int


STEP_REPORT = np.dtype([(name, "<i8") for name in StepReport._fields])


@leaf
def clear_report(report: Any) -> None:
    """Set all fields to 0."""
    report.status = report.place = report.num_tried = report.num_changed = report.num_kept = 0
    report.segments = report.changes = report.num_waiting = report.longest = report.num_busy = 0
    report.new_keys = report.num_evicted = 0
    report.first_requests = report.first_queries = report.first_hits = 0
    report.preempted_requests = report.preempted_queries = report.preempted_hits = 0
