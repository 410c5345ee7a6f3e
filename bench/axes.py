"""The cases of the benchmarks of a table, on the CPU and on a GPU: one axis varies, the others stay put."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from kvgpu.layout import DEFAULT_LOAD_FACTOR


@dataclass(frozen=True)
class Find:
    """Lookups of single keys.

    entries: keys in the table. load: of its slots. match: share of the keys asked for that are in it. batch: keys
    of one call. cold: whether the caches are emptied before each call. key_bytes: width of a key.
    """

    entries: int
    batch: int
    load: float = DEFAULT_LOAD_FACTOR
    match: float = 1.0
    cold: bool = False
    key_bytes: int = 32

    def __str__(self) -> str:
        words = f"{self.entries:,} entries, load {self.load:g}, {self.match:.0%} hit, {self.batch:,} keys"
        width = "" if self.key_bytes == 32 else f", {self.key_bytes} bytes"
        return words + width + (", cold" if self.cold else "")


@dataclass(frozen=True)
class Prefix:
    """Longest prefixes of many requests.

    groups: cache groups that must all have a block. match: share of each request that is cached. scattered:
    whether blocks that follow each other lie all over the memory, where nothing leads from one to the next.
    """

    requests: int
    blocks: int
    groups: int = 1
    match: float = 1.0
    cold: bool = False
    scattered: bool = False

    def __str__(self) -> str:
        groups = "" if self.groups == 1 else f", {self.groups} groups"
        marks = (", scattered" if self.scattered else "") + (", cold" if self.cold else "")
        return f"{self.requests:,} requests of {self.blocks:,} blocks{groups}, {self.match:.0%} cached" + marks


@dataclass(frozen=True)
class Queue:
    """Waiting requests.

    requests: how many. blocks: of each. match: share of each that is cached. longest: blocks of the first, where
    that has more than the others.
    """

    requests: int
    blocks: int
    match: float = 1.0
    longest: int = 0

    @property
    def lengths(self) -> tuple[int, ...]:
        """Blocks of each request."""
        first = max(self.blocks, self.longest)
        return (first, *(self.blocks,) * (self.requests - 1))

    def __str__(self) -> str:
        longest = f", the first of {self.longest:,}" if self.longest > self.blocks else ""
        cached = "" if self.match == 1 else f", {self.match:.0%} cached"
        return f"{self.requests:,} requests of {self.blocks:,} blocks{longest}{cached}"


@dataclass(frozen=True)
class Axes:
    """Which values each axis takes."""

    base: Find
    entries: tuple[int, ...]
    loads: tuple[float, ...] = (0.5, 0.7, 0.9)
    matches: tuple[float, ...] = (0.0, 0.5, 1.0)
    batches: tuple[int, ...] = ()
    widths: tuple[int, ...] = (32,)
    cold: tuple[int, ...] = ()
    """Entries of the tables that are also asked with empty caches."""
    prefixes: tuple[Prefix, ...] = field(default=())

    def finds(self) -> Iterator[Find]:
        """Every case once, those of one table after each other."""
        base = self.base
        cases = [replace(base, entries=n, batch=min(n, base.batch)) for n in self.entries]
        cases += [replace(base, load=load, match=m) for load in self.loads for m in (0.0, 1.0)]
        cases += [replace(base, match=match) for match in self.matches]
        cases += [replace(base, batch=batch) for batch in self.batches]
        cases += [replace(base, key_bytes=width) for width in self.widths]
        cases += [
            replace(base, entries=n, batch=min(n, base.batch), cold=cold) for n in self.cold for cold in (False, True)
        ]
        order = {case: i for i, case in enumerate(cases)}
        yield from sorted(order, key=lambda case: (case.entries, case.load, case.key_bytes, order[case]))
