"""Lookups and changes of a table on a GPU, beside the ceilings of its memory; each case is checked, then timed."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from axes import Find
from harness import Row
from on_gpu.ceilings import ceiling
from on_gpu.sizes import Sizes
from on_gpu.timing import empty_cache, seconds, seconds_of_launching

from kvgpu.device.block_hash_table import BlockHashTable


def random_keys(table: BlockHashTable, count: int) -> Any:
    """int64 [count, key_bytes / 8]; no two are equal for all that matters."""
    shape = (count, table.view.key_words)
    return torch.randint(-(2**63), 2**63 - 1, shape, dtype=torch.int64, device=table.device)


def filled(case: Find, engine: str) -> tuple[BlockHashTable, Any]:
    """A table with every block in it, and its keys."""
    table = BlockHashTable(case.entries, key_bytes=case.key_bytes, load_factor=case.load, engine=engine)
    keys = random_keys(table, case.entries)
    every = torch.arange(case.entries, dtype=torch.int32, device=table.device)
    assert table.rebuild(keys, every) == case.entries, "the table lost keys"
    return table, keys


def asked_of(table: BlockHashTable, keys: Any, case: Find) -> tuple[Any, Any, Any]:
    """(keys asked for, their groups, ids that are right) of a case, whose table `filled` has made."""
    device = table.device
    order = torch.randint(case.entries, (case.batch,), device=device)
    missing = torch.rand(case.batch, device=device) >= case.match
    asked = torch.where(missing[:, None], random_keys(table, case.batch), keys[order])
    expected = torch.where(missing, -1, order).to(torch.int32)
    return asked, torch.zeros(case.batch, dtype=torch.int32, device=device), expected


def find(table: BlockHashTable, keys: Any, case: Find, sizes: Sizes) -> Row:
    """One case of lookups. Groups are a tensor: one number for all would be a launch of its own."""
    asked, groups, expected = asked_of(table, keys, case)
    out = torch.empty_like(expected)
    table.find(asked, groups, out=out)
    assert torch.equal(out, expected), f"find: wrong answers, {case}"
    start = partial(table.find_async, asked, groups, out=out)
    low, middle, high = seconds(start, sizes.rounds, empty_cache if case.cold else None)
    assert torch.equal(out, expected), f"find: wrong answers after it was timed, {case}"
    to_ns = 1e9 / case.batch
    return Row("find", str(case), "ns/key", middle * to_ns, low=low * to_ns, high=high * to_ns)


def with_goal(row: Row, case: Find, table: BlockHashTable, sizes: Sizes) -> Row:
    """The row beside as many random lines as a lookup has to read, with the goal of the case."""
    lines = 1 + case.match
    limit = ceiling("read", table.nbytes, sizes)
    if limit is not None:
        row.peer, row.peer_name = lines * limit * 1e9, f"{lines:g} random lines"
    if case == sizes.inside_cache:
        return row.stay_below(1 / 30)
    return row.hold_against(0.75) if case in sizes.goal_finds else row


def finds(engine: str, cases: Sequence[Find], sizes: Sizes) -> Iterator[Row]:
    """Lookups, in tables that are made once for all cases of one kind."""
    table, keys, made = None, None, None
    for case in cases:
        if made != (case.entries, case.load, case.key_bytes):
            table = keys = None  # before the next one is made
            made = (case.entries, case.load, case.key_bytes)
            table, keys = filled(case, engine)
        assert table is not None
        row = find(table, keys, case, sizes)
        row = with_goal(row, case, table, sizes)
        row.metric = f"find, {engine}"
        yield row


def goal_finds(engine: str, sizes: Sizes) -> Iterator[Row]:
    """Those with goals."""
    yield from finds(engine, sizes.goal_finds, sizes)


def more_finds(engine: str, sizes: Sizes) -> Iterator[Row]:
    """Every other case of every axis."""
    yield from finds(engine, sizes.finds, sizes)


def updates(engine: str, sizes: Sizes) -> Iterator[Row]:
    """Enter, replace and erase many keys of a half-filled table."""
    entries = sizes.updates.entries
    table = BlockHashTable(entries, 16, engine=engine)
    half = entries // 2
    present = random_keys(table, half)
    blocks = torch.arange(entries, dtype=torch.int32, device=table.device)
    count = min(sizes.changes, half // 2)
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
        table.check()
        row = Row(
            f"update, {engine}", f"{kind} {count:,} keys, {entries:,} entries", "ns/key", middle, low=low, high=high
        )
        limit = ceiling("swap", table.nbytes, sizes)
        if limit is not None:
            row.peer, row.peer_name = limit * 1e9, "1 random compare-and-swap"
        yield row.hold_against(0.5)


def launches(engine: str, sizes: Sizes) -> Iterator[Row]:
    """What a call costs Python until it returns, with nothing to wait for."""
    case = Find(1024, 64)
    table, keys = filled(case, engine)
    asked = keys[: case.batch].contiguous()
    out = torch.empty(case.batch, dtype=torch.int32, device=table.device)
    groups = torch.zeros_like(out)
    assert torch.equal(table.find(asked, groups), torch.arange(case.batch, device=table.device).int())
    calls = {
        "find_async, groups as a tensor": partial(table.find_async, asked, groups, out=out),
        "find_async, one group as a number": partial(table.find_async, asked, 0, out=out),
        "update_async": partial(table.update_async, asked, out, groups, old=out, validate=False),
    }
    for name, start in calls.items():
        low, middle, high = seconds_of_launching(start, 10 * sizes.rounds) * 1e6
        yield Row(f"call from Python, {engine}", name, "us", middle, low=low, high=high)
