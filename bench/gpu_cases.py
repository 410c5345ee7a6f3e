"""Speeds on a GPU beside the ceilings of its memory; each case is checked before it is timed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Row, at_least

from kvgpu.block_hash_table import BlockHashTable

QUANTILES = (0.2, 0.5, 0.8)
LINE = 64


@dataclass
class Sizes:
    """How much of everything; small ones for a rehearsal."""

    large: int = 2**24
    small: int = 2**18
    batch: int = 2**22
    update: int = 2**20
    accesses: int = 2**28
    rounds: int = 15
    prefixes: tuple[tuple[int, int], ...] = ((64, 64), (256, 128), (1000, 8192))
    graphs: bool = True


def seconds(start: Callable[[], Any], rounds: int, reset: Callable[[], Any] | None = None) -> Any:
    """(20th, 50th, 80th percentile) of the time on the device of what `start` launches."""
    if not torch.cuda.is_available():
        start()
        return np.full(3, np.nan)
    times = []
    for turn in range(rounds + 3):
        if reset is not None:
            reset()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        start()
        end.record()
        end.synchronize()
        if turn >= 3:
            times.append(begin.elapsed_time(end) / 1e3)
    return np.quantile(times, QUANTILES)


class Ceilings:
    """Seconds per random 64-byte line, read or compare-and-swapped, by size of the working set."""

    def __init__(self, sizes: Sizes) -> None:
        import cupy

        code = (Path(__file__).with_name("ceilings.cu")).read_text()
        module = cupy.RawModule(code=code, options=("-std=c++17",))
        self._kernels = {name: module.get_function(name) for name in ("read_lines", "swap_lines")}
        self._sizes = sizes
        self._sink = torch.zeros(1, dtype=torch.int64, device="cuda")
        self._known: dict[tuple[str, int], float] = {}
        self._blocks = 8 * torch.cuda.get_device_properties(0).multi_processor_count

    def of(self, kind: str, nbytes: int) -> float:
        """`kind`: read_lines or swap_lines."""
        lines = max(1, nbytes // LINE)
        if (kind, lines) not in self._known:
            import cupy

            table = torch.zeros(lines * 8, dtype=torch.int64, device="cuda")
            count = self._sizes.accesses
            arguments = (
                np.uint64(table.data_ptr()), np.uint64(lines), np.uint64(count),
                np.uint64(self._sink.data_ptr()),
            )  # fmt: skip

            def start() -> None:
                with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
                    self._kernels[kind]((self._blocks,), (256,), arguments)

            self._known[kind, lines] = seconds(start, 3)[1] / count
        return self._known[kind, lines]


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


def finds(engine: str, sizes: Sizes, ceilings: Ceilings | None) -> Iterator[Row]:
    """Lookups that hit and that miss, in tables larger and smaller than the second-level cache."""
    cases = [(sizes.large, width, load) for width in (16, 32) for load in (0.5, 0.8)]
    for num_blocks, width, load in [*cases, (sizes.small, 16, 0.5)]:
        table, keys = filled(num_blocks, key_bytes=width, load_factor=load, engine=engine)
        batch = min(sizes.batch, num_blocks)
        order = torch.randperm(num_blocks, device=table.device)[:batch]
        asked = {"hit": keys[order].contiguous(), "miss": random_keys(table, batch)}
        expected = {
            "hit": order.to(torch.int32),
            "miss": torch.full_like(order, -1).to(torch.int32),
        }
        out = torch.empty(batch, dtype=torch.int32, device=table.device)
        for kind, lines in (("hit", 2), ("miss", 1)):
            table.find(asked[kind], out=out)
            assert torch.equal(out, expected[kind]), f"find: wrong answers on {kind}"
            start = partial(table.find_async, asked[kind], out=out)
            low, middle, high = seconds(start, sizes.rounds) / batch * 1e9
            case = f"{engine}, {kind}, {num_blocks:,} blocks, {width} bytes, load {load}"
            row = Row("find", case, "ns/key", middle, low=low, high=high)
            if num_blocks == sizes.small:
                row.goal, row.met = "<= 0.0333 ns (30 G/s)", bool(middle <= 1 / 30)
            elif ceilings is not None:
                row.peer = lines * ceilings.of("read_lines", table.nbytes) * 1e9
                row.peer_name = f"{lines} random lines"
                row.goal, row.met = at_least(row.ratio, 0.75)
            yield row


def updates(engine: str, sizes: Sizes, ceilings: Ceilings | None) -> Iterator[Row]:
    """Enter, replace and erase many keys of a half-filled table."""
    table = BlockHashTable(sizes.large, 16, engine=engine)
    half = sizes.large // 2
    present = random_keys(table, half)
    blocks = torch.arange(sizes.large, dtype=torch.int32, device=table.device)
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
        row = Row("update", f"{engine}, {kind}, {sizes.large:,} blocks", "ns/key", middle,
                  low=low, high=high)  # fmt: skip
        if ceilings is not None:
            row.peer = ceilings.of("swap_lines", table.nbytes) * 1e9
            row.peer_name = "1 random compare-and-swap"
            row.goal, row.met = at_least(row.ratio, 0.5)
        yield row


def prefixes(engine: str, sizes: Sizes) -> Iterator[Row]:
    """All requests cached in full: the most that a batch can cost. Eager, and as a CUDA graph."""
    goals = {(256, 128): 10e-6, (1000, 8192): 1e-3}
    for requests, length in sizes.prefixes:
        num_keys = requests * length
        table, keys = filled(num_keys, key_bytes=32, engine=engine)
        offsets = torch.arange(0, num_keys + 1, length, device=table.device)
        limits = torch.full((requests,), length, dtype=torch.int64, device=table.device)
        out = table.prefix_buffers(requests, num_keys)

        start = partial(
            table.longest_prefix_async, keys, offsets, longest=length, max_lengths=limits, out=out
        )
        start()
        every = torch.arange(num_keys, dtype=torch.int32, device=table.device)
        assert bool((out.num_tokens == length).all()), "longest prefix: wrong lengths"
        assert torch.equal(out.ids[0], every), "longest prefix: wrong ids"
        ways = {"eager": start}
        if sizes.graphs:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                start()
            out.num_tokens.zero_()
            graph.replay()
            assert bool((out.num_tokens == length).all()), "longest prefix: wrong as a graph"
            ways["graph"] = graph.replay
        for way, run in ways.items():
            low, middle, high = seconds(run, sizes.rounds) * 1e6
            case = f"{engine}, {requests:,} x {length:,}, {way}"
            row = Row("longest prefix", case, "us", middle, low=low, high=high)
            goal = goals.get((requests, length))
            if goal is not None and way == ("graph" if sizes.graphs else "eager"):
                row.goal, row.met = f"<= {goal * 1e6:g}", bool(middle <= goal * 1e6)
            yield row
