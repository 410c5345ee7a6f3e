"""What must hold on the device before a speed may be printed: self-tests, tests, sanitizers, races."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from kvgpu.errors import KVGPUError
from kvgpu.selftest import SelfTest

ROOT = Path(__file__).resolve().parent.parent
SANITIZER_SECONDS = 45
SANITIZED = "from kvgpu.selftest import SelfTest; SelfTest({engine!r}, 16, 300).run(2)"


def usable_engines() -> list[str]:
    """The engines that can run here; why the others cannot is printed."""
    found = []
    for engine in ("triton", "cuda"):
        try:
            SelfTest(engine, 16, 10)
            found.append(engine)
        except KVGPUError as error:
            print(f"engine {engine} is left out: {error}")
    return found


def self_tests(engines: list[str], num_blocks: int, flushes: int) -> None:
    """Both widths on every engine against a dict, with the invariant kernel after each flush."""
    for engine in engines:
        for key_bytes in (16, 32):
            SelfTest(engine, key_bytes, num_blocks).run(flushes)
        print(f"self-test of {engine}: passed")


def races(engines: list[str], seeds: int, num_blocks: int) -> None:
    """Contended updates: small full tables, half of whose keys change hands in every flush."""
    for engine in engines:
        for seed in range(seeds):
            test = SelfTest(engine, 16, num_blocks, load_factor=0.9, seed=seed)
            for _ in range(3):
                test.flush()
                test.look_up()
                test.table.check()
        print(f"contended updates by {engine}: {3 * seeds} flushes, each as the dict says")


def tests_on_device() -> bool:
    """The project's own tests of kernels and indexes, where pytest is installed."""
    if find_spec("pytest") is None or find_spec("hypothesis") is None:
        print("pytest or hypothesis is not installed: the tests were not run, the self-tests were")
        return True
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/kernels",
         "tests/test_index.py", "--deselect", "tests/kernels/test_aot.py"],
        cwd=ROOT, env=environment, check=False,
    )  # fmt: skip
    return done.returncode == 0


def sanitizers(engines: list[str]) -> bool:
    """compute-sanitizer's memcheck and initcheck over a small self-test, where it is installed."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        print("compute-sanitizer is not installed: memcheck and initcheck were not run")
        return True
    passed = True
    for engine in engines:
        for check in ("memcheck", "initcheck"):
            command = [tool, "--tool", check, "--error-exitcode", "1", sys.executable, "-c",
                       SANITIZED.format(engine=engine)]  # fmt: skip
            try:
                done = subprocess.run(
                    command, cwd=ROOT, capture_output=True, text=True, check=False,
                    timeout=SANITIZER_SECONDS,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                print(
                    f"compute-sanitizer {check} of {engine}: not done in {SANITIZER_SECONDS} s, not counted"
                )
                continue
            passed &= done.returncode == 0
            print(
                f"compute-sanitizer {check} of {engine}: {'passed' if done.returncode == 0 else 'FAILED'}"
            )
            if done.returncode:
                print(done.stdout[-3000:], done.stderr[-3000:])
    return passed
