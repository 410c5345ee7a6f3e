"""What `ncu` looks at: one launch of find (hits, then misses), of the longest prefix by each design, and of update.

ncu --profile-from-start off ... python bench/on_gpu/profiled.py triton|cuda [small]
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

import torch  # noqa: E402
from on_gpu.blocks import sizes  # noqa: E402
from on_gpu.prefix import Case  # noqa: E402
from on_gpu.table import filled, random_keys  # noqa: E402


def main(engine: str, small: bool) -> None:
    """Everything twice: the first time compiles, the second is looked at."""
    case = sizes(small).updates
    table, keys = filled(case, engine)
    asked = keys[torch.randint(case.entries, (case.batch,), device=table.device)]
    missing = random_keys(table, case.batch)
    groups = torch.zeros(case.batch, dtype=torch.int32, device=table.device)
    out = torch.empty_like(groups)
    erased = torch.full_like(groups, -1)
    blocks = torch.arange(case.batch, dtype=torch.int32, device=table.device)
    prefix = Case(sizes(small).goal_prefixes[0], engine)

    def everything() -> None:
        table.find_async(asked, groups, out=out)
        table.find_async(missing, groups, out=out)
        prefix.one_launch()
        prefix.two_launches()
        own = keys[: case.batch]
        table.update_async(own, erased, groups, old=blocks, validate=False)
        table.update_async(own, blocks, groups, old=erased, validate=False)

    everything()
    table.check()
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    everything()
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()
    table.check()


if __name__ == "__main__":
    main(sys.argv[1], "small" in sys.argv[2:])
