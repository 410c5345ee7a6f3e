"""`Step`: all that compiled code takes for one step over many rows."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kvgpu.batch.rows.record import REQUEST_RECORD
from kvgpu.batch.step.options import STEP_OPTIONS
from kvgpu.batch.step.report import STEP_REPORT
from kvgpu.compiled.handle import WORDS, array_at, lines_at
from kvgpu.compiled.jit import inline, leaf
from kvgpu.layout import KEY_WORDS
from kvgpu.rules.allocation import GROUP_RECORD

POOL, STORE, GROUPS, REQUESTS, TABLE_IDS, ARENA, PLAN, LINES, OPTIONS, REPORT = range(10)
"""Arrays of the handle of a step, in order.

POOL, STORE: the words of the handles of pool and store. PLAN, LINES: the first two fields of `Lookups`.
OPTIONS, REPORT: STEP_OPTIONS and STEP_REPORT [1]. The others are fields of `BatchArrays` and `Step`.
"""

GROUP, OPTION, REPORTED = np.empty(0, GROUP_RECORD), np.empty(0, STEP_OPTIONS), np.empty(0, STEP_REPORT)
_REQUEST = np.empty(0, REQUEST_RECORD)
"""Arrays that stand for the type of others."""


class BatchArrays(NamedTuple):
    """The rows of a step and what is known of them."""

    requests: Any
    """REQUEST_RECORD [max_requests], of `RequestRows`."""
    rows: Any
    """int64 [n]."""
    table_ids: Any
    """int64 [max_requests, groups], block tables of each row in the store."""
    arena: Any
    """int64 [any, KEY_WORDS], hashes."""
    given: Any
    """int64 [n] or [1], new tokens of each row or of all; or [2 n], those of each, and then their tokens in flight."""
    widths: Any
    """int64 [groups], columns of the caller's block tables; empty if there are none."""


class Step(NamedTuple):
    """One step."""

    pool: Any
    """`PoolArrays`."""
    store: Any
    """`StoreArrays`."""
    groups: Any
    """GROUP_RECORD [groups]."""
    batch: Any
    """`BatchArrays`."""
    options: Any
    """A STEP_OPTIONS record."""
    report: Any
    """A STEP_REPORT record."""


@inline
def batch_at(handle: Any, rows: Any, given: Any, widths: Any) -> BatchArrays:
    """Return the rows of the step that a handle stands for; the other arguments are fields of the result."""
    return BatchArrays(
        array_at(handle, 2 * REQUESTS, _REQUEST),
        rows,
        lines_at(handle, 2 * TABLE_IDS, WORDS, handle[2 * GROUPS + 1]),
        lines_at(handle, 2 * ARENA, WORDS, KEY_WORDS),
        given,
        widths,
    )


@leaf
def given_at(batch: Any, place: int) -> int:
    """Return the new tokens of the row at a place of the step."""
    return int(batch.given[place if len(batch.given) > 1 else 0])


@leaf
def in_flight_at(batch: Any, place: int) -> int:
    """Return the tokens of the row at a place of the step that belong to steps that have not ended."""
    count = len(batch.rows)
    return int(batch.given[count + place]) if len(batch.given) == 2 * count else 0


def with_in_flight(
    num_new: npt.NDArray[np.int64], num_in_flight: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.int64]:
    """Return `given` of `BatchArrays` from new tokens and tokens in flight, int64 [n] or [1] each. O(n)."""
    given = np.empty((2, count), np.int64)
    given[0], given[1] = num_new, num_in_flight
    return given.reshape(-1)


def new_and_in_flight(given: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Return a copy of `given` of `BatchArrays` as int64 [2, n]: new tokens, and tokens in flight. O(n)."""
    both = np.zeros((2, count), np.int64)
    if len(given) == 2 * count:
        both[:] = given.reshape(2, count)
    else:
        both[0] = given
    return both
