"""How much of everything `bench/gpu.py` measures, and which cases have goals."""

from dataclasses import dataclass, replace

from axes import Axes, Find, Prefix, Queue

BASE = Find(2**24, 2**22, load=0.5)
INSIDE_CACHE = Find(2**18, 2**22, load=0.5, key_bytes=16)
"""A table that the second-level cache holds; the keys asked for come from memory."""
GOAL_FINDS = (INSIDE_CACHE, *(replace(BASE, load=load, match=match) for load in (0.5, 0.8) for match in (1.0, 0.0)))
GOAL_PREFIXES = (Prefix(256, 128), Prefix(1000, 8192))
GOAL_QUEUES = (Queue(64, 64), Queue(1000, 8192))

AXES = Axes(
    BASE,
    entries=tuple(2**power for power in range(13, 27)),
    loads=(0.5, 0.7, 0.8, 0.9),
    batches=tuple(2**power for power in range(6, 23, 4)),
    widths=(16, 32),
    cold=(2**16, 2**18),
)


@dataclass(frozen=True)
class Sizes:
    """Cases by block; the small ones of a rehearsal and of a warm-up have the same kernels."""

    goal_finds: tuple[Find, ...] = GOAL_FINDS
    inside_cache: Find = INSIDE_CACHE
    """The one of them whose goal is a number of lookups, not a share of what the memory can do."""
    finds: tuple[Find, ...] = tuple(case for case in AXES.finds() if case not in GOAL_FINDS)
    goal_prefixes: tuple[Prefix, ...] = GOAL_PREFIXES
    prefixes: tuple[Prefix, ...] = (
        Prefix(64, 64),
        Prefix(64, 8192),
        Prefix(256, 128, 2),
        Prefix(256, 128, 4),
        Prefix(256, 128, 1, 0.5),
        Prefix(256, 128, 1, 0.0),
        Prefix(256, 128, 1, 1.0, True),
    )
    designs: tuple[Find, ...] = (*GOAL_FINDS, *(replace(BASE, load=0.9, match=match) for match in (1.0, 0.0)))
    """Of lookups by the designs that compete."""
    goal_queues: tuple[Queue, ...] = GOAL_QUEUES
    cpu_queues: tuple[Queue, ...] = (Queue(64, 1), Queue(1000, 1))
    """Of which only the CPU's part is timed, to which the number of blocks does not matter."""
    queues: tuple[Queue, ...] = (Queue(1000, 16, longest=8192), Queue(64, 64, match=0.0), Queue(1000, 16))
    updates: Find = BASE
    """The table that is changed, whose batch is not used, and the one that is profiled."""
    changes: int = 2**20
    hashes: tuple[tuple[int, int], ...] = ((625_000, 1), (625_000, 1000))
    """Blocks and prompts of kvgpu128."""
    chains: tuple[int, int] = (1024, 512)
    """Prompts and blocks of each of SHA-256."""
    copied: int = 400_000_000
    """Bytes of the copy that kvgpu128 stands beside: more than the caches hold."""
    accesses: int = 2**27
    working_sets: tuple[int, ...] = (2**24, 2**31)
    rounds: int = 15
    product: int = 8192
    """Side of the matrices whose products keep the GPU busy."""
    matches: int = 50
    """Calls of a queue, beside which a slow one does not count."""
    under_load: int = 300
    contended: tuple[int, int] = (40, 2_000)
    """Seeds, and blocks of a table."""
    self_test: tuple[int, int, int] = (5_000, 2, 12)
    """Blocks of the table, flushes, and requests of a lookup of prefixes."""


SMALL_INSIDE_CACHE = Find(32, 48, load=0.5, match=0.5, key_bytes=16)
SMALL = Sizes(
    goal_finds=(Find(64, 48), SMALL_INSIDE_CACHE),
    inside_cache=SMALL_INSIDE_CACHE,
    finds=(Find(64, 48, load=0.9, match=0.5, cold=True),),
    goal_prefixes=(Prefix(2, 5, 1, 0.4),),
    prefixes=(Prefix(2, 5, 2, 0.4, True),),
    designs=(Find(64, 48), SMALL_INSIDE_CACHE),
    goal_queues=(Queue(2, 5),),
    cpu_queues=(Queue(2, 1),),
    queues=(Queue(2, 1, longest=3), Queue(1, 2, match=0.0)),
    updates=Find(64, 48, load=0.5),
    changes=16,
    hashes=((16, 1),),
    chains=(3, 2),
    copied=4_000,
    accesses=64,
    working_sets=(2**12,),
    rounds=1,
    product=8,
    matches=1,
    under_load=2,
    contended=(1, 40),
    self_test=(40, 1, 1),
)
