"""What `bench/gpu.py` runs, in the order of what matters if it is cut off; needs no torch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from on_gpu.sizes import SMALL, Sizes
from on_gpu.tools import Profile, PytestOnDevice, Sanitizer, Tool, WarmUp

ENGINES = ("triton", "cuda")


@dataclass(frozen=True)
class Block:
    """What the worker runs, and where its rows come from.

    made_by: module:function, called with `arguments` and `Sizes`; it yields rows and, of a check, words.
    seconds: at most. is_check: whether it must pass before a table is published.
    """

    name: str
    made_by: str
    arguments: tuple[str, ...] = ()
    seconds: float = 30
    is_check: bool = False

    def rows(self, sizes: Any) -> Iterator[Any]:
        """Import, and run."""
        module, name = self.made_by.split(":")
        make: Callable[..., Iterator[Any]] = getattr(import_module(module), name)
        yield from make(*self.arguments, sizes)


@dataclass(frozen=True)
class Step:
    """Tools that run at once, and blocks that run one after the other meanwhile."""

    blocks: Sequence[Block] = ()
    tools: Sequence[Tool] = ()


def of_engines(name: str, made_by: str, seconds: float = 30, is_check: bool = False) -> list[Block]:
    """A block for every engine."""
    return [Block(f"{name}, {engine}", made_by, (engine,), seconds, is_check) for engine in ENGINES]


SELF_TESTS = of_engines("self-test", "on_gpu.checks:self_test", is_check=True)
GOAL_FINDS = of_engines("finds with goals", "on_gpu.table:goal_finds")
UPDATES = of_engines("updates", "on_gpu.table:updates")
GOAL_PREFIXES = of_engines("prefixes with goals", "on_gpu.prefix:goal_prefixes")
HASHES = [Block("kvgpu128", "on_gpu.hashing:kvgpu128"), Block("sha256", "on_gpu.hashing:sha256")]
GOAL_MATCHES = of_engines("matches with goals", "on_gpu.queues:goal_matches", 60)
CPU_TIMES = of_engines("CPU time of match", "on_gpu.queues:cpu_times")
GRAPHS = of_engines("match_async in a graph", "on_gpu.queues:match_async")
DESIGNS = of_engines("designs of finds", "on_gpu.designs.finds:designs", 60)
GOALS = (*SELF_TESTS, *GOAL_FINDS, *UPDATES, *GOAL_PREFIXES, *HASHES)

STEPS = (
    Step(
        [Block("ceilings", "on_gpu.ceilings:ceilings", seconds=60)],
        [
            WarmUp("warm-up of queues", [GOAL_MATCHES[0].name, GRAPHS[0].name]),
            WarmUp("warm-up of tables, triton", [b.name for b in GOALS if "triton" in b.name]),
            WarmUp("warm-up of tables, cuda", [b.name for b in GOALS if "cuda" in b.name]),
            WarmUp("warm-up of hashes", [b.name for b in HASHES]),
            WarmUp("warm-up of designs", [b.name for b in DESIGNS]),
        ],
    ),
    Step(GOALS),
    Step((*GOAL_MATCHES, *CPU_TIMES)),
    Step(GRAPHS),
    Step(DESIGNS),
    Step(of_engines("prefixes by two launches", "on_gpu.prefix:two_launches")),
    Step(of_engines("more matches", "on_gpu.queues:more_matches")),
    Step(of_engines("match under load", "on_gpu.queues:under_load")),
    *(Step(tools=[Profile(engine)]) for engine in ENGINES),
    Step(
        of_engines("contended updates", "on_gpu.checks:contended", 90, True),
        [PytestOnDevice(), *(Sanitizer(e, check) for e in ENGINES for check in ("memcheck", "initcheck"))],
    ),
    Step(of_engines("more prefixes", "on_gpu.prefix:more_prefixes")),
    Step(
        [
            *of_engines("calls from Python", "on_gpu.table:launches"),
            Block("calls from Python, hashes", "on_gpu.hashing:launches"),
            Block("crossover of auto", "on_gpu.queues:crossover"),
        ]
    ),
    Step(of_engines("more finds", "on_gpu.table:more_finds", 200)),
)


def sizes(small: bool) -> Sizes:
    """Those of a rehearsal or a warm-up, or the real ones."""
    return SMALL if small else Sizes()
