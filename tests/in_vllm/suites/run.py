"""Run the tests that vLLM 0.23.0 has of its scheduler and of connectors on kvgpu, in each mode.

    python tests/in_vllm/suites/run.py VLLM_SOURCE [--modes plain,manager,check,scheduler] [-- PYTEST_OPTIONS]

VLLM_SOURCE is the unpacked source distribution, which has the tests. Exit status: that of pytest, the worst of all
modes: 0 if all tests passed, of at least as many as EXPECTED says.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(Path(__file__).resolve().parent))

from models import make_models

CONNECTORS = "tests/v1/kv_connector/unit"
SUITES = {
    "scheduler": (["tests/v1/core/test_scheduler.py"], 102),
    "async scheduler": (["tests/v1/core/test_async_scheduler.py"], 9),
    "connectors": (
        [
            f"{CONNECTORS}/{name}.py"
            for name in (
                "test_remote_prefill_lifecycle",
                "test_remote_decode_lifecycle",
                "test_invalid_blocks_correctness",
                "test_kv_load_failure_recovery",
                "test_cache_pollution_prevention",
                "test_error_propagation",
                "offloading_connector/test_scheduler",
            )
        ],
        81,
    ),
}
"""Name -> files, and the number of tests that pass on vLLM alone."""

MODES = ("plain", "manager", "check", "scheduler")


def run(source: Path, home: Path, mode: str, suite: str, options: list[str]) -> int:
    """Run one suite in one mode and print its last lines; return the exit status."""
    files, expected = SUITES[suite]
    places = [source, ROOT, ROOT / "tests", ROOT / "tests/in_vllm/suites"]
    variables = {
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "KVGPU_SUITE": mode,
        "PYTHONPATH": os.pathsep.join([*map(str, places), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "pytest", "--noconftest", "-p", "plugin", "-p", "no:cacheprovider", "-q", "-W"]
    command += ["ignore", "-o", "asyncio_mode=auto", *files, *options]
    if suite == "connectors":
        command += ["-p", "tests.v1.kv_connector.unit.offloading_connector.utils"]
    print(f"== {suite}, {mode}", flush=True)
    done = subprocess.run(command, cwd=source, env={**os.environ, **variables}, capture_output=True, text=True)
    print(*done.stdout.splitlines()[-8 if done.returncode == 0 else -40 :], done.stderr[-2000:], sep="\n", flush=True)
    passed = re.search(r"(\d+) passed", done.stdout)
    if done.returncode == 0 and (passed is None or int(passed[1]) < expected):
        print(f"only {passed and passed[1]} tests passed, {expected} are expected")
        return 1
    return done.returncode


def main() -> int:
    """Run all suites in the modes that were chosen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("options", nargs="*")
    args = parser.parse_args()
    modes = args.modes.split(",")
    if not set(modes) <= set(MODES):
        parser.error(f"modes are {', '.join(MODES)}")
    with TemporaryDirectory() as home:
        make_models(Path(home))
        return max(run(args.source, Path(home), mode, suite, args.options) for mode in modes for suite in SUITES)


if __name__ == "__main__":
    sys.exit(main())
