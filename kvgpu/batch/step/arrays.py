"""`Step`: all that compiled code takes for one step over many rows."""

from typing import Any, NamedTuple

from kvgpu.compiled.jit import leaf


class BatchArrays(NamedTuple):
    """The rows of a step and what is known of them; Python passes a plain tuple (see `PoolArrays`)."""

    requests: Any
    """REQUEST_RECORD [max_requests], of `RequestRows`."""
    rows: Any
    """int64 [n]."""
    table_ids: Any
    """int64 [max_requests, groups], block tables of each row in the store."""
    arena: Any
    """int64 [any, KEY_WORDS], hashes."""
    given: Any
    """int64 [n] or [1], new tokens of each row or of all."""
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


@leaf
def given_at(batch: Any, place: int) -> int:
    """Return the new tokens of the row at a place of the step."""
    return int(batch.given[place if len(batch.given) > 1 else 0])
