"""Run the tests that vLLM has of its manager, scheduler and connectors on kvgpu, in each mode.

    python tests/in_vllm/suites/run.py SOURCE [--modes plain,manager] [--suites NAME,...] [--cases DIR] [-- OPTIONS]

SOURCE is the unpacked source distribution of vLLM, which has the tests and says its version; `table.py` says what runs
for it. --cases keeps what became of every test, a file of JSON for each suite and mode. OPTIONS go to pytest. Exit
status: 0 if as many tests passed as the table says, else 1.
"""

import argparse
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from cases import Case, read_cases
from table import MODES, SUITES, Suite, version_of


def command_of(suite: Suite, options: list[str]) -> list[str]:
    """The call of pytest."""
    words = [sys.executable, "-m", "pytest", "--noconftest", "-p", "plugin", "-p", "no:cacheprovider", "-q", "-W"]
    words += ["ignore", "-o", "asyncio_mode=auto", *suite.files, *options]
    for plugin in suite.plugins:
        words += ["-p", plugin]
    return words + [f"--deselect={name}" for name in suite.without]


def told(cases: list[Case], by_names: bool) -> tuple[int, list[str]]:
    """Return how many tests count as passed, and lines about the others, by name."""
    passed = [case for case in cases if case.outcome == "passed"]
    lines = [f"{case.outcome} {case.name}: {case.reason}" for case in cases if case.outcome == "failed"]
    managers: Counter[str] = Counter()
    for case in cases:
        managers.update(case.managers)
    lines += [f"{count} managers: {name}" for name, count in managers.items()]
    if by_names:
        lines += [f"touches nothing of kvgpu: {case.name}" for case in passed if not case.kvgpu]
        lines += [f"ran {', '.join(case.vllm)}: {case.name}" for case in passed if case.kvgpu and case.vllm]
        passed = [case for case in passed if case.ran_on_kvgpu]
    return len(passed), lines


def run(source: Path, home: Path, mode: str, name: str, suite: Suite, folder: Path, options: list[str]) -> bool:
    """Run one suite in one mode and print what became of it; return whether enough tests passed."""
    by_names = suite.by_names and mode == "manager"
    path = folder / f"{name.replace(' ', '_')}-{mode}.json"
    path.unlink(missing_ok=True)
    places = [source, ROOT, ROOT / "tests", ROOT / "tests/conformance", HERE]
    variables = {
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "KVGPU_SUITE": mode,
        "KVGPU_SUITE_NAMES": str(int(by_names)),
        "KVGPU_SUITE_CASES": str(path),
        "PYTHONPATH": os.pathsep.join([*map(str, places), os.environ.get("PYTHONPATH", "")]),
    }
    print(f"== {name}, {mode}", flush=True)
    done = subprocess.run(
        command_of(suite, options), cwd=source, env={**os.environ, **variables}, capture_output=True, text=True
    )
    passed, lines = told(read_cases(path), by_names)
    expected = suite.passed[mode]
    fine = done.returncode in (0, 1) and passed >= expected
    print(*done.stdout.splitlines()[-8 if fine else -40 :], done.stderr[-2000:], *lines, sep="\n", flush=True)
    print(f"{passed} passed{' on kvgpu alone' if by_names else ''}, {expected} are expected", flush=True)
    return fine


def main() -> int:
    """Run the suites of a version in the modes that were chosen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--suites", help="names of suites; all if not given")
    parser.add_argument("--cases", type=Path, help="folder for what became of each test")
    own, options = sys.argv[1:], []
    if "--" in own:
        own, options = own[: own.index("--")], own[own.index("--") + 1 :]
    args = parser.parse_args(own)
    modes = args.modes.split(",")
    if not set(modes) <= set(MODES):
        parser.error(f"modes are {', '.join(MODES)}")
    version = version_of(args.source)
    if version not in SUITES:
        parser.error(f"versions are {', '.join(SUITES)}, this is {version}")
    suites = SUITES[version]
    names = args.suites.split(",") if args.suites else list(suites)
    if not set(names) <= set(suites):
        parser.error(f"suites of {version} are {', '.join(suites)}")
    from models import make_models  # needs what vLLM does

    with TemporaryDirectory() as home:
        make_models(Path(home))
        folder = args.cases or Path(home)
        folder.mkdir(parents=True, exist_ok=True)
        fine = [
            run(args.source.resolve(), Path(home), mode, name, suites[name], folder.resolve(), options)
            for mode in modes
            for name in names
            if mode in suites[name].passed
        ]
    return int(not all(fine))


if __name__ == "__main__":
    sys.exit(main())
