"""Longest prefixes of many requests, eager and as CUDA graphs; each case is checked before it is timed.

Two designs compete under full attention: one launch, in which each request stops at its first miss, as the table does
it; and two, which look everything up at once.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from axes import Prefix
from harness import Row
from on_gpu.sizes import Sizes
from on_gpu.table import random_keys
from on_gpu.timing import captured, empty_cache, seconds, seconds_alone

from kvgpu.device.block_hash_table import BlockHashTable
from kvgpu.kernels.longest_prefix import launch_decide
from kvgpu.rules.plan import HitQuery, HitRule, PrefixPlan
from kvgpu.rules.plan_words import FULL

GOALS = (8.0, 800.0)
"""Of `Sizes.goal_prefixes`: at most, in us, as a graph."""


class Case:
    """A table and requests of which a known share is cached."""

    def __init__(self, case: Prefix, engine: str) -> None:
        self.case = case
        num_keys = case.requests * case.blocks
        self.groups = tuple(range(case.groups))
        plan = PrefixPlan((HitQuery(HitRule(FULL, 1, 1), self.groups),))
        table = BlockHashTable(num_keys * case.groups, 32, engine=engine)
        keys = random_keys(table, num_keys)
        self.cached = round(case.match * case.blocks)
        every = torch.arange(num_keys, dtype=torch.int32, device=table.device)
        self.kept = (every % case.blocks < self.cached).nonzero().flatten()
        self.ids = every[self.kept]
        for group in self.groups:
            table.update(keys[self.kept], self.ids + group * num_keys, group)
        offsets = torch.arange(0, num_keys + 1, case.blocks, device=table.device)
        limits = torch.full((case.requests,), case.blocks, dtype=torch.int64, device=table.device)
        self.out = table.prefix_buffers(case.requests, num_keys, plan)
        # Begins and ends are tensors of their own: as parts of one they would lie at odd addresses.
        begins, ends = offsets[:-1].clone(), offsets[1:].clone()
        self.one_launch = partial(
            table.longest_prefix_async,
            keys,
            (begins, ends),
            plan,
            longest=case.blocks,
            max_lengths=limits,
            out=self.out,
        )
        self.num_keys = num_keys
        words, view, out = table.memory.plan_words(plan), table.view, self.out

        def two_launches() -> None:
            table.memory.engine.launch_probe(view, words, keys, begins, ends, out.hits, case.blocks, 1)
            launch_decide(view, words, begins, ends, limits, out, case.blocks, 0)

        self.two_launches = two_launches

    def check(self, run: Any, way: str) -> None:
        """Run, and compare lengths and ids.

        Raises:
            AssertionError: They are wrong.
        """
        self.out.num_tokens.fill_(-7)
        self.out.ids.fill_(-7)
        run()
        right = bool((self.out.num_tokens == self.cached).all())
        assert right, f"longest prefix, {way}: wrong lengths, {self.case}"
        for group in self.groups:
            ids = self.out.ids[group][self.kept]
            right = torch.equal(ids, self.ids + group * self.num_keys)
            assert right, f"longest prefix, {way}: wrong ids, {self.case}"


def prefixes(engine: str, cases: Sequence[Prefix], sizes: Sizes) -> Iterator[Row]:
    """Each case eager, as a graph in a row with others, and as a graph from an idle GPU."""
    for case in cases:
        made = Case(case, engine)
        yield from timed(made, made.one_launch, f"longest prefix, {engine}", sizes)


def timed(made: Case, start: Any, metric: str, sizes: Sizes) -> Iterator[Row]:
    """One case by one design."""
    case = made.case
    made.check(start, "eager")
    reset = empty_cache if case.cold else None
    low, middle, high = seconds(start, sizes.rounds, reset) * 1e6
    yield Row(f"{metric}, eager", str(case), "us", middle, low=low, high=high)
    replay = captured(start)
    made.check(replay, "as a graph")
    low, middle, high = seconds(replay, sizes.rounds, reset) * 1e6
    row = Row(f"{metric}, graph", str(case), "us", middle, low=low, high=high)
    goals = dict(zip(sizes.goal_prefixes, GOALS, strict=False))
    yield row.stay_below(goals[case]) if case in goals else row
    if reset is None:
        low, middle, high = seconds_alone(replay, sizes.rounds) * 1e6
        yield Row(f"{metric}, graph from idle", str(case), "us", middle, low=low, high=high)


def two_launches(engine: str, sizes: Sizes) -> Iterator[Row]:
    """The other design."""
    for case in (*sizes.goal_prefixes, *sizes.prefixes):
        made = Case(case, engine)
        yield from timed(made, made.two_launches, f"longest prefix by two launches, {engine}", sizes)


def goal_prefixes(engine: str, sizes: Sizes) -> Iterator[Row]:
    """Those with goals."""
    yield from prefixes(engine, sizes.goal_prefixes, sizes)


def more_prefixes(engine: str, sizes: Sizes) -> Iterator[Row]:
    """Several groups, partly cached, cold."""
    yield from prefixes(engine, sizes.prefixes, sizes)
