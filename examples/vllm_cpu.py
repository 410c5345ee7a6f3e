"""vLLM 0.23.0's engine core with kvgpu, end to end, without a GPU, weights or a download.

    python examples/vllm_cpu.py [--window 64] [--async] [--requests 64] [--plant] [--json -]

Three processes serve the same prompts, step by step in turn: vLLM alone, vLLM with kvgpu's plug-in, and vLLM with the
plug-in and `kvgpu.vllm.Scheduler`. Engine core, scheduler and requests are vLLM's; in place of the model, `stand_in.py`
makes tokens that are wrong where a block is. The requests share prefixes, and are more than fit at once: blocks are
found again and evicted, prompts are cut into chunks, and requests are preempted. The tokens of each must be those that
it has without a cache.
A step's time is the CPU time of `schedule` and `update_from_output`; ratios are taken step by step, and the median of
each is printed. bench/vllm_steps.py measures with more care.
Exit status: 0 all tokens are equal, 1 some differ, 2 nothing was found out: vLLM or the plug-in is missing, a side
failed, or nothing could be planted.
"""

import argparse
import json
import multiprocessing
import random
import sys
from pathlib import Path

from tqdm import tqdm

# Processes that are started inherit it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from served import SIDES, VERSION, Prompts, Served, serve_in_turns

VOCABULARY = 2048
"""As in stand_in.py, which cannot be imported without vLLM."""
PREFIXES, PREFIX_TOKENS, OWN_TOKENS, NEW_TOKENS = 5, (60, 160), (5, 120), (10, 80)
COLUMNS = "{:22}{:>14}{:>8}{:>12}{:>13}{:>7}{:>11}{:>8}"


def prompts_of(options: argparse.Namespace) -> Prompts:
    """Requests whose prompts begin as those of some others do. O(tokens)."""
    rng = random.Random(options.seed)

    def tokens(shortest: int, longest: int) -> list[int]:
        return [rng.randrange(VOCABULARY) for _ in range(rng.randint(shortest, longest))]

    prefixes = [tokens(*PREFIX_TOKENS) for _ in range(PREFIXES)]
    return {
        f"r{number}": (rng.choice(prefixes) + tokens(*OWN_TOKENS), rng.randint(*NEW_TOKENS))
        for number in range(options.requests)
    }


def all_sides(options: argparse.Namespace) -> list[Served]:
    """Have all sides serve the same requests, one step each in turn.

    Raises:
        ImportError: vLLM 0.23.0 or the plug-in is missing.
        EOFError: A side failed; its process has printed why.
    """
    fresh, prompts = multiprocessing.get_context("spawn"), prompts_of(options)
    sides, all_served = [], []
    with tqdm(total=len(SIDES) * len(prompts), disable=None, unit="request") as bar:
        try:
            for side in SIDES:
                ours, theirs = fresh.Pipe()
                process = fresh.Process(target=serve_in_turns, args=(theirs, options, side, prompts))
                process.start()
                theirs.close()
                sides.append((ours, process))
                bar.set_description(f"starting {side}")
                said = ours.recv()
                if isinstance(said, ImportError):
                    raise said
                bar.update(said)
            bar.set_description("serving")
            active = [connection for connection, _ in sides]
            while active:
                for connection in list(active):
                    connection.send(None)
                    said = connection.recv()
                    if isinstance(said, Served):
                        all_served.append(said)
                        active.remove(connection)
                    else:
                        bar.update(said)
        finally:
            for connection, process in sides:
                connection.close()
                process.join()
    return sorted(all_served, key=lambda served: list(SIDES).index(served.side))


def in_words(all_served: list[Served], options: argparse.Namespace) -> str:
    """Who served, and a table."""
    attention = f"full attention, and a window of {options.window} tokens" if options.window else "full attention"
    kind = "asynchronous" if options.is_async else "synchronous"
    lines = [f"{options.requests} requests, {options.blocks} blocks, {attention}, {kind} scheduling"]
    lines += [f"{each.side}: {each.manager}, {each.scheduler}, hashes by {each.hasher}" for each in all_served]
    lines += [each.arrays for each in all_served if each.arrays]
    lines.append(
        COLUMNS.format("", "cached tokens", "chunks", "new blocks", "preemptions", "steps", "us a step", "ratio")
    )
    for each in all_served:
        figures = each.figures(all_served[0])
        counts = [figures[name] for name in ("cached_tokens", "chunks", "new_blocks", "preemptions", "steps")]
        lines.append(COLUMNS.format(each.side, *counts, f"{figures['step_us']:.1f}", f"{figures['ratio']:.2f}x"))
    return "\n".join(lines)


def verdict(all_served: list[Served], options: argparse.Namespace) -> tuple[int, str]:
    """The exit status, and why. O(tokens)."""
    planted = all_served[-1].planted
    if options.plant and planted is None:
        return 2, "nothing was planted: no request found two blocks in the cache"
    differences = [words for each in all_served if (words := each.difference())]
    if options.plant:
        differences.insert(0, f"planted: two blocks of request {planted} were told in the wrong order")
    if differences:
        return 1, "\n".join(differences)
    count = sum(map(len, all_served[0].tokens.values()))
    return 0, f"all {count} tokens are equal on the three sides, and equal to those without a cache"


def main() -> int:
    """Serve, compare, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=200, help="of the pool")
    parser.add_argument("--running", type=int, default=32, help="requests at once, at most")
    parser.add_argument("--budget", type=int, default=256, help="tokens a step, at most")
    parser.add_argument("--window", type=int, default=0, help="a second group has a sliding window of so many tokens")
    parser.add_argument("--async", dest="is_async", action="store_true", help="asynchronous scheduling")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plant", action="store_true", help="on the last side, get the order of two blocks wrong")
    parser.add_argument("--json", type=Path, help="write what was found as JSON ('-': standard output)")
    options = parser.parse_args()
    try:
        all_served = all_sides(options)
    except ImportError as error:
        print(f"this example needs vLLM {VERSION}, and kvgpu installed beside it: {error}", file=sys.stderr)
        return 2
    except EOFError:
        print("one side failed, as the error above says", file=sys.stderr)
        return 2
    status, words = verdict(all_served, options)
    to_stdout = str(options.json) == "-"
    print(in_words(all_served, options), file=sys.stderr if to_stdout else sys.stdout)
    print(words, file=sys.stderr if to_stdout or status else sys.stdout)
    if options.json is not None:
        sides = [each.figures(all_served[0]) for each in all_served]
        text = json.dumps({"status": status, "verdict": words, "sides": sides}, indent=1)
        print(text) if to_stdout else options.json.write_text(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
