"""Nothing is compiled while serving: one variant of a kernel for a width of keys, whatever the arguments are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import support.device.tables  # noqa: F401 - skips where Triton is missing

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wanted():
    """What tests/support/device/kernel_variants.py counts, in its own process: the interpreter is chosen for each."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    done = subprocess.run(
        [sys.executable, str(TESTS / "support" / "device" / "kernel_variants.py")],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_kernel_has_one_variant_for_a_width_of_keys(wanted):
    lookups = {"find_kernel", "probe_kernel", "leading_run_kernel"}
    by_width = lookups | {"update_kernel", "validate_kernel", "homes_kernel", "entries_kernel"}
    others = {"decide_kernel", "values_kernel", "carries_kernel", "mix_kernel"}
    assert wanted["warm"] == dict.fromkeys(by_width, 2) | dict.fromkeys(others, 1)


def test_no_argument_makes_a_kernel_be_compiled_again(wanted):
    assert wanted["more"] == {}
