"""Everything to be known on a machine with a GPU, in one command and at most nine minutes.

    python bench/gpu.py [--json -] [--rehearse]

First what must hold: self-tests against a dict, the project's tests, sanitizers, contended updates. Then
the rates at which this GPU reads and swaps random 64-byte lines, then the kernels beside them. No speed
is printed when a check fails. The system's Python with torch, Triton and CuPy is enough; no network.
Rows go to bench/data/gpu.csv. `--rehearse` runs it all small in Triton's interpreter and prints no speed.
Exit status: 0 all goals met, 1 a goal missed, 2 a check failed.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from harness import benchmark_options, finish  # noqa: E402

EXIT_CHECK_FAILED = 2


def device_words() -> str:
    """GPU, driver and CUDA version, in words."""
    import subprocess

    import torch

    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()
    name = torch.cuda.get_device_name(0)
    return f"{name}, driver {driver[0] if driver else 'unknown'}, CUDA {torch.version.cuda}"


def checks(rehearse: bool) -> list[str]:
    """The engines that passed.

    Raises:
        AssertionError: Something does not hold; no speed counts.
    """
    import gpu_checks

    engines = gpu_checks.usable_engines()
    assert engines, "no engine can run here"
    gpu_checks.self_tests(engines, *((60, 1) if rehearse else (20_000, 4)))
    gpu_checks.races(engines, *((1, 40) if rehearse else (40, 2_000)))
    if not rehearse:
        assert gpu_checks.tests_on_device(), "tests failed on the device"
        assert gpu_checks.sanitizers(engines), "a sanitizer found something"
    return engines


def measured(engines: list[str], rehearse: bool) -> list[Any]:
    """All rows."""
    import gpu_queues as queues
    import gpu_table as tables
    from gpu_hashing import hashes
    from gpu_time import REHEARSAL, Ceilings, Sizes
    from tqdm import tqdm

    sizes = REHEARSAL if rehearse else Sizes()
    ceilings = None if rehearse else Ceilings(sizes)
    rows: list[Any] = []
    for engine in engines:
        for made in (
            queues.matches(engine, sizes),
            queues.under_load(engine, sizes),
            tables.prefixes(engine, sizes),
            tables.updates(engine, sizes, ceilings),
            tables.finds(engine, sizes, ceilings),
        ):
            rows += tqdm(made, desc=engine, disable=None, unit="row")
    if "triton" in engines and not rehearse:
        rows.append(queues.crossover())
    made = hashes("cuda" in engines, sizes.rounds, rehearse)
    rows += tqdm(made, desc="hashes", disable=None, unit="row")
    return rows


def main() -> int:
    """Check, measure, print, save."""
    parser = benchmark_options(__doc__)
    parser.add_argument("--rehearse", action="store_true", help="small, in the interpreter")
    options = parser.parse_args()
    if options.rehearse:
        os.environ["TRITON_INTERPRET"] = "1"
    start = time.monotonic()
    try:
        engines = checks(options.rehearse)
        rows = measured(engines, options.rehearse)
    except AssertionError as error:
        print(f"A check failed, so no speed is printed: {error}", file=sys.stderr)
        return EXIT_CHECK_FAILED
    if options.rehearse:
        print(f"rehearsed {len(rows)} cases; no speed of an interpreter is worth printing")
        return 0
    words = device_words()
    print(f"{words}; {time.monotonic() - start:.0f} s in all")
    return finish("gpu", rows, options, words)


if __name__ == "__main__":
    sys.exit(main())
