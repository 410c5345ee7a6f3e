"""Compare kvgpu with the real vLLM, call by call, on random configurations.

    python tests/differential/run.py [--behaviour 0.33] [--calls N] [--seed S] [--backend NAME]

Needs an interpreter in which both can be imported; kvgpu behaves as the vLLM that is installed. Exit status 1 on the
first difference.
"""

import argparse
import logging
import os
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(HERE), str(HERE.parent / "conformance")]


def num_calls(counts: Counter[str]) -> int:
    """Calls that were compared."""
    return sum(n for name, n in counts.items() if not name.startswith(("refused", "ended", "seen")))


def main() -> int:
    """Run episodes until enough calls were compared."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=200_000, help="calls to compare")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first episode")
    parser.add_argument("--actions", type=int, default=150, help="actions per episode")
    parser.add_argument("--behaviour", help="what the installed vLLM must do, or it is an error")
    parser.add_argument("--backend", default="host", help="index backend of kvgpu")
    options = parser.parse_args()
    os.environ["KVGPU_BACKEND"] = options.backend
    logging.disable(logging.WARNING)
    import torch
    import vllm
    from comparison import Difference
    from episode import Episode, run_episode
    from later_episode import LaterEpisode
    from systems import kvgpu_modules, vllm_modules
    from tqdm import tqdm

    from kvgpu.config.behaviour import BEHAVIOUR_0_23
    from kvgpu.vllm.capabilities import behaviour_of_vllm

    behaviour = behaviour_of_vllm()
    if behaviour is None:
        parser.error(f"kvgpu does not know vLLM {vllm.__version__}")
    if options.behaviour not in (None, behaviour.version):
        parser.error(f"vLLM {vllm.__version__} does what is done since {behaviour.version}, not {options.behaviour}")
    ours, oracle = kvgpu_modules(torch.float32, behaviour), vllm_modules(torch.float32)
    kind = Episode if behaviour == BEHAVIOUR_0_23 else LaterEpisode
    counts: Counter[str] = Counter()
    seed = options.seed
    with tqdm(total=options.calls, disable=None, unit="call") as bar:
        while num_calls(counts) < options.calls:
            try:
                run_episode(seed, ours, oracle, counts, options.actions, kind)
            except Difference as difference:
                print(f"DIFFERENT after {num_calls(counts)} calls: {difference}")
                if difference.__cause__ is not None:
                    import traceback

                    traceback.print_exception(difference.__cause__)
                return 1
            seed += 1
            bar.update(num_calls(counts) - bar.n)
    for name, count in sorted(counts.items()):
        print(f"{count:9d}  {name}")
    episodes = seed - options.seed
    told = f"{num_calls(counts)} calls in {episodes} episodes on {options.backend}"
    print(f"{told} beside vLLM {vllm.__version__}: no difference")
    return 0


if __name__ == "__main__":
    sys.exit(main())
