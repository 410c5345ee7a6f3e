"""Speeds of the table on a GPU beside the ceilings of its memory; each case is checked before it is timed."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from axes import Find, Prefix
from gpu_time import BASE, Ceilings, Sizes, empty_cache, seconds
from harness import Row

from kvgpu.block_hash_table import BlockHashTable
from kvgpu.kernels.layout import FULL
from kvgpu.plan import HitQuery, HitRule, PrefixPlan

INSIDE_CACHE = 2**18
"""Entries of a table that the second-level cache holds."""


def random_keys(table: BlockHashTable, count: int) -> Any:
    """int64 [count, key_bytes / 8]; no two are equal for all that matters."""
    shape = (count, table.view.key_words)
    return torch.randint(-(2**63), 2**63 - 1, shape, dtype=torch.int64, device=table.device)


def filled(num_blocks: int, **options: Any) -> tuple[BlockHashTable, Any]:
    """A table with every block in it, and its keys."""
    table = BlockHashTable(num_blocks, **options)
    keys = random_keys(table, num_blocks)
    every = torch.arange(num_blocks, dtype=torch.int32, device=table.device)
    assert table.rebuild(keys, every) == num_blocks, "the table lost keys"
    return table, keys


def find(table: BlockHashTable, keys: Any, case: Find, rounds: int) -> Row:
    """One case of lookups."""
    order = torch.randperm(case.entries, device=table.device)
    order = order[torch.arange(case.batch, device=table.device) % case.entries]
    missing = torch.rand(case.batch, device=table.device) >= case.match
    asked = torch.where(missing[:, None], random_keys(table, case.batch), keys[order])
    expected = torch.where(missing, -1, order).to(torch.int32)
    out = torch.empty(case.batch, dtype=torch.int32, device=table.device)
    table.find(asked, out=out)
    assert torch.equal(out, expected), f"find: wrong answers, {case}"
    start = partial(table.find_async, asked, out=out)
    reset = empty_cache if case.cold and torch.cuda.is_available() else None
    low, middle, high = seconds(start, rounds, reset) / case.batch * 1e9
    return Row("find", str(case), "ns/key", middle, low=low, high=high)


def finds(engine: str, sizes: Sizes, ceilings: Ceilings | None) -> Iterator[Row]:
    """Lookups along every axis; the table larger than the cache is held against random lines."""
    table, keys, made = None, None, None
    for case in sizes.axes.finds():
        if made != (case.entries, case.load, case.key_bytes):
            table = keys = None  # before the next one is made
            made = (case.entries, case.load, case.key_bytes)
            table, keys = filled(
                case.entries, key_bytes=case.key_bytes, load_factor=case.load, engine=engine
            )
        assert table is not None
        row = find(table, keys, case, sizes.rounds)
        if ceilings is not None:
            lines = 1 + case.match
            row.peer = lines * ceilings.of("read_lines", table.nbytes) * 1e9
            row.peer_name = f"{lines:g} random lines"
            if (
                case.entries == BASE.entries
                and case.batch == BASE.batch
                and case.load in (0.5, 0.8)
            ):
                row.hold_against(0.75)
            elif (case.entries, case.key_bytes, case.cold) == (INSIDE_CACHE, 16, False):
                row.stay_below(1 / 30)
        row.metric = f"find, {engine}"
        yield row


def updates(engine: str, sizes: Sizes, ceilings: Ceilings | None) -> Iterator[Row]:
    """Enter, replace and erase many keys of a half-filled table."""
    entries = sizes.axes.base.entries
    table = BlockHashTable(entries, 16, engine=engine)
    half = entries // 2
    present = random_keys(table, half)
    blocks = torch.arange(entries, dtype=torch.int32, device=table.device)
    count = min(sizes.update, half // 2)
    fresh, none = random_keys(table, count), torch.full_like(blocks[:count], -1)
    group = torch.zeros(count, dtype=torch.int32, device=table.device)
    changes = {
        "enter": (fresh, none, blocks[half : half + count]),
        "replace": (present[:count].contiguous(), blocks[:count], blocks[half : half + count]),
        "erase": (present[:count].contiguous(), blocks[:count], none),
    }
    for kind, (keys, old, new) in changes.items():
        reset = partial(table.rebuild_async, present, blocks[:half])
        start = partial(table.update_async, keys, new, group, old=old, validate=False)
        reset()
        start()
        assert torch.equal(table.find(keys), new), f"update: wrong answers on {kind}"
        table.check()
        low, middle, high = seconds(start, sizes.rounds, reset) / count * 1e9
        row = Row(
            f"update, {engine}", f"{kind} {count:,} keys, {entries:,} entries", "ns/key", middle,
            low=low, high=high,
        )  # fmt: skip
        if ceilings is not None:
            peer = ceilings.of("swap_lines", table.nbytes) * 1e9
            row = Row(
                row.metric, row.case, row.unit, middle, peer, "1 random compare-and-swap", low=low,
                high=high,
            ).hold_against(0.5)  # fmt: skip
        yield row


def prefixes(engine: str, sizes: Sizes) -> Iterator[Row]:
    """Longest prefixes. Eager, and as a CUDA graph."""
    goals = {(256, 128): 10, (1000, 8192): 1000}
    for case in sizes.axes.prefixes:
        num_keys = case.requests * case.blocks
        groups = tuple(range(case.groups))
        plan = PrefixPlan((HitQuery(HitRule(FULL, 1, 1), groups),))
        table = BlockHashTable(num_keys * case.groups, 32, engine=engine)
        keys = random_keys(table, num_keys)
        cached = round(case.match * case.blocks)
        every = torch.arange(num_keys, dtype=torch.int32, device=table.device)
        kept = (every % case.blocks < cached).nonzero().flatten()
        for group in groups:
            table.update(keys[kept], every[kept] + group * num_keys, group)
        offsets = torch.arange(0, num_keys + 1, case.blocks, device=table.device)
        limits = torch.full((case.requests,), case.blocks, dtype=torch.int64, device=table.device)
        out = table.prefix_buffers(case.requests, num_keys, plan)
        start = partial(
            table.longest_prefix_async, keys, offsets, plan, longest=case.blocks,
            max_lengths=limits, out=out,
        )  # fmt: skip
        start()
        assert bool((out.num_tokens == cached).all()), f"longest prefix: wrong lengths, {case}"
        for group in groups:
            ids = out.ids[group][kept]
            assert torch.equal(ids, every[kept] + group * num_keys), f"wrong ids, {case}"
        ways = {"eager": start}
        if sizes.graphs:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                start()
            out.num_tokens.zero_()
            graph.replay()
            assert bool((out.num_tokens == cached).all()), "longest prefix: wrong as a graph"
            ways["graph"] = graph.replay
        reset = empty_cache if case.cold and torch.cuda.is_available() else None
        for way, run in ways.items():
            low, middle, high = seconds(run, sizes.rounds, reset) * 1e6
            row = Row(
                f"longest prefix, {engine}, {way}", str(case), "us", middle, low=low, high=high
            )
            usual = case == Prefix(case.requests, case.blocks)
            goal = goals.get((case.requests, case.blocks)) if usual else None
            yield row if goal is None or way == "eager" else row.stay_below(goal)
