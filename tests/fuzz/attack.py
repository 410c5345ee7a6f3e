"""Odd calls to kvgpu, one after the other, in a process that may die of them.

    python tests/fuzz/attack.py --seed 1 --count 2000 [--only host] [--without GUARD]

Prints a line of JSON for each fault, and before each call what is about to be called to standard error, so that who
started it knows what it died of. Exit status: 0 no fault, 1 a fault.
"""

import argparse
import json
import os
import random
import resource
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]

MEMORY_BYTES = 3 << 29
"""Beyond what is there at the start; no argument may cost so much, unless it says how much is wanted."""

REQUEST_FIELDS = (
    "request_id",
    "num_tokens",
    "num_computed_tokens",
    "num_prompt_tokens",
    "block_hashes",
    "num_preemptions",
    "skip_reading_prefix_cache",
    "all_token_ids",
    "cache_salt",
    "lora_request",
    "mm_features",
)


def shown(value: Any) -> str:
    """A value in few words."""
    try:
        return f"{type(value).__name__} {value!r}"[:120]
    except Exception:
        return type(value).__name__


def odd_request(request: Any, told: bool, rng: random.Random) -> Any:
    """A request of another engine, of which one attribute is odd or missing.

    Where there are events, none of those that go into them: what makes them raises when the call is complete.
    """
    from odd_values import odd_value

    copy = SimpleNamespace(**{name: getattr(request, name) for name in REQUEST_FIELDS if hasattr(request, name)})
    copy.append_output_token_ids = lambda ids: copy.all_token_ids.extend([ids] if isinstance(ids, int) else ids)
    field = rng.choice(REQUEST_FIELDS[:-4] if told else REQUEST_FIELDS)
    if rng.random() < 0.2:
        vars(copy).pop(field, None)
    else:
        setattr(copy, field, odd_value(rng))
    return copy


def odd_call(subject: Any, rng: random.Random) -> tuple[Any, dict[str, Any]]:
    """A call, and its arguments, with something wrong among them more often than not."""
    from odd_values import damaged

    call = subject.call()
    arguments = dict(call.arguments)
    if not arguments or call.is_odd or rng.random() < 0.1:
        return call, arguments
    for _ in range(rng.choice([1, 1, 1, 2])):
        name = rng.choice(list(arguments))
        value = arguments[name]
        if call.about is not None and name in ("request", "requests") and rng.random() < 0.7:
            odd = odd_request(call.about, subject.told, rng)
            arguments[name] = [odd] if name == "requests" else odd
        else:
            arguments[name] = damaged(value, rng)
    return call, arguments


def faults_of(subject: Any, call: Any, arguments: dict[str, Any]) -> list[str]:
    """What is wrong with how a call went."""
    from kvgpu.errors import KVGPUError

    before = subject.state()
    found = []
    try:
        result = call.function(**arguments)
    except BaseException as error:
        if isinstance(error, KVGPUError) or (call.may_run_out and isinstance(error, MemoryError)):
            after = subject.state()
            found += [f"{type(error).__name__}, but {key} changed" for key in before if before[key] != after[key]]
        else:
            found.append(f"untyped {type(error).__name__}: {error}"[:200])
    else:
        found += wrong_results(subject, call, arguments, result)
        if call.is_odd:
            found.append("accepted")
    try:
        subject.check()
    except BaseException as error:
        found.append(f"check(): {error}"[:300])
    return found


def wrong_results(subject: Any, call: Any, arguments: dict[str, Any], result: Any) -> list[str]:
    """What a result must not be, whatever was asked."""
    from subjects import MAX_MODEL_LEN, NUM_BLOCKS, SIZE

    found = []
    if call.name == "get_computed_blocks" and not 0 <= result[1] <= max(arguments["request"].num_tokens - 1, 0):
        found.append(f"{result[1]} hit tokens")
    if call.name.startswith("allocate_slots") and result is not None:
        request = arguments["request"]
        ids = [block for group in subject.manager.get_block_ids(request.request_id) for block in group]
        if any(not 0 <= block < NUM_BLOCKS for block in ids):
            found.append(f"blocks {ids}")
        asked = sum(
            int(arguments.get(name) or 0)
            for name in ("num_new_tokens", "num_new_computed_tokens", "num_external_computed_tokens")
        ) + int(request.num_computed_tokens)
        given = arguments.get("new_computed_blocks")
        # A generator that was accepted held no block.
        groups = [] if given is None else [group for group in given.blocks if hasattr(group, "__len__")]
        covered = SIZE * max(map(len, groups), default=0)
        if int(arguments.get("num_new_computed_tokens") or 0) > covered:
            found.append(f"blocks for {covered} computed tokens only")
        slots = min(len(group) for group in subject.manager.get_block_ids(request.request_id)) * SIZE
        if min(asked, MAX_MODEL_LEN + 1) > slots:
            found.append(f"{slots} slots for {asked} tokens")
    if call.name == "batch.allocate_batch" and any(not 0 <= block < NUM_BLOCKS for block in result.block_ids.tolist()):
        found.append(f"blocks {result.block_ids.tolist()}")
    return found


def limit_memory() -> None:
    """Let calls that ask for too much fail."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def without(guard: str) -> None:
    """Take one guard out of kvgpu before it is imported."""
    from guards import GUARDS, SourceWithout

    sys.meta_path.insert(0, SourceWithout(*GUARDS[guard]))


def main() -> int:
    """Attack, print faults."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--skip", type=int, default=0, help="inputs of this seed that are left out")
    parser.add_argument("--only", default="host,reference", help="backends (%(default)s)")
    parser.add_argument("--without", help="a guard of tests/fuzz/guards.py")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first fault")
    parser.add_argument("--kernels", choices=("interpreted", "compiled"), default="interpreted", help="without a GPU")
    options = parser.parse_args()
    if options.kernels == "compiled":
        from support.ptx import triton_driver

        triton_driver.install()
    elif "triton" in options.only:
        os.environ["TRITON_INTERPRET"] = "1"
    if options.without:
        without(options.without)
    warnings.simplefilter("ignore")
    from public_calls import Target
    from subjects import GROUPS

    if "triton" not in options.only:
        limit_memory()
    faults, subject = 0, None
    for number in range(options.skip, options.count):
        rng = random.Random(options.seed * 1_000_003 + number)
        if subject is None or number % 25 == 0:
            subject = Target(rng.choice(list(GROUPS)), rng.choice(options.only.split(",")), rng.random() < 0.4, rng)
            for _ in range(6):
                subject.live()
        subject.rng = rng
        story: dict[str, Any] = {"input": number, "seed": options.seed, "subject": subject.name}
        try:
            subject.live()
            call, arguments = odd_call(subject, rng)
            story |= {"call": call.name, "arguments": {name: shown(value) for name, value in arguments.items()}}
            print(json.dumps(story), file=sys.stderr, flush=True)
            found = faults_of(subject, call, arguments)
            if not found:
                subject.forget_strangers()
        except Exception as error:
            found = [f"what is right was refused: {type(error).__name__}: {error}"[:300]]
        if found:
            faults += 1
            print(json.dumps({**story, "found": found}), flush=True)
            if not options.keep_going:
                return 1
            subject = None
    print(json.dumps({"inputs": options.count - options.skip, "faults": faults}), flush=True)
    print("ended", file=sys.stderr, flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
