"""Designs of the plain lookup that compete with the table's own, each checked and timed beside it.

docs/performance.md says what is expected of each. One of them may become the table's own when a GPU has decided.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
import triton
from axes import Find
from harness import Row
from on_gpu.designs.cache_hints import launch_find_with_hints
from on_gpu.designs.cache_window import MOST_BYTES, in_one_piece, persisting
from on_gpu.designs.cooperative import launch_find_together
from on_gpu.designs.grid import launch
from on_gpu.designs.persistent_lanes import launch_find_in_turn
from on_gpu.sizes import Sizes
from on_gpu.table import asked_of, filled
from on_gpu.timing import seconds

from kvgpu.device.block_hash_table import BlockHashTable
from kvgpu.kernels.find import find_kernel, launch_find
from kvgpu.kernels.primitives.records import LANES
from kvgpu.kernels.view import TableView

Launch = Callable[[TableView, Any, Any, Any], None]
"""Called with table, keys, groups and ids, as `kvgpu.kernels.find.launch_find`."""

POISON = -7
"""What ids hold before a design writes them."""
LONGEST_MESSAGE = 500


@dataclass(frozen=True)
class Design:
    """A way to look keys up. in_window: whether the second-level cache keeps the table meanwhile, if it is small."""

    name: str
    launch: Launch
    in_window: bool = False


def launch_two_keys_a_lane(table: TableView, keys: Any, groups: Any, ids: Any) -> None:
    """Do what `kvgpu.kernels.find.launch_find` does, with its kernel: a warp of 32 lanes for 64 keys."""
    launch(find_kernel, triton.cdiv(len(keys), 2 * LANES), 2 * LANES, table, keys, groups, ids)


DESIGNS = {
    "triton": (
        Design("two keys a lane", launch_two_keys_a_lane),
        Design("lanes in turn", launch_find_in_turn),
        Design("cache hints", launch_find_with_hints),
        Design("persisting window", launch_find, in_window=True),
    ),
    "cuda": (Design("lanes together", launch_find_together),),
}
"""By engine. All designs of CUDA need CuPy."""


def kind(case: Find) -> tuple[int, float, int]:
    """What cases that share a table have in common."""
    return case.entries, case.load, case.key_bytes


def timed(launch: Launch, view: TableView, lookup: Any, rounds: int) -> Any:
    """Check what a design answers, and return the 20th, 50th and 80th percentile of its time, in ns a key.

    Raises:
        AssertionError: An answer is wrong.
    """
    asked, groups, expected = lookup
    ids = torch.full_like(expected, POISON)
    start = partial(launch, view, asked, groups, ids)
    start()
    assert torch.equal(ids, expected), "wrong answers"
    times = seconds(start, rounds)
    assert torch.equal(ids, expected), "wrong answers after it was timed"
    return times * (1e9 / len(asked))


def row_of(design: Design, case: Find, table: BlockHashTable, lookup: Any, sizes: Sizes) -> Row:
    """One case by one design, without the peer."""
    view, window = table.view, nullcontext()
    if design.in_window:
        view, piece = in_one_piece(view)
        window = persisting(piece)
    with window:
        low, middle, high = timed(design.launch, view, lookup, sizes.rounds)
    return Row(design.name, str(case), "ns/key", middle, low=low, high=high)


def of_table(engine: str, cases: Sequence[Find], sizes: Sizes) -> Iterator[Row | str]:
    """Cases that share a table, by all designs; in words, where one fails."""
    table, keys = filled(cases[0], engine)
    for case in cases:
        lookup = asked_of(table, keys, case)
        own = timed(table.memory.engine.launch_find, table.view, lookup, sizes.rounds)
        for design in DESIGNS[engine]:
            if design.in_window and table.nbytes > MOST_BYTES:
                continue
            metric = f"find, {design.name}, {engine}"
            try:
                row = row_of(design, case, table, lookup, sizes)
            except Exception as error:
                yield f"{metric}: failed, {case}: {type(error).__name__}: {error}"[:LONGEST_MESSAGE]
                continue
            row.metric = metric
            row.peer_low, row.peer, row.peer_high = own
            row.peer_name = f"find, {engine}"
            yield row


def designs(engine: str, sizes: Sizes) -> Iterator[Row | str]:
    """Every design at the cases with goals, and at a higher load.

    Raises:
        AssertionError: The table's own lookup is wrong.
        MissingPackageError: CuPy is not installed, and the engine is `cuda`.
    """
    for _, cases in groupby(sizes.designs, kind):
        yield from of_table(engine, list(cases), sizes)
