"""Odd calls to everything public: an error of kvgpu's and nothing changed, or a right answer."""

import subprocess
import sys
from pathlib import Path

import pytest
from guards import GUARDS
from makers import BLOCKS, PARTS, SPECS
from support.device.packages import needs

ATTACK = Path(__file__).resolve().parent / "attack.py"
CASES = SPECS | PARTS | BLOCKS
SECONDS = 280
"""A process that takes longer hangs."""


def attack(*options):
    """What an attack found: its exit status, and what it printed."""
    done = subprocess.run(
        [sys.executable, str(ATTACK), *map(str, options)], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    return done.returncode, done.stdout, done.stderr.splitlines()[-3:]


@needs("msgspec")
def test_odd_arguments_are_refused_or_right():
    status, printed, last = attack("--seed", 1, "--count", 1900)
    assert status == 0, (printed, last)


@needs("msgspec")
def test_a_device_is_asked_no_odd_questions(pytestconfig):
    kernels = pytestconfig.getoption("--kernels")
    status, printed, last = attack("--seed", 2, "--count", 100, "--only", "triton", "--kernels", kernels)
    assert status == 0, (printed, last)


@pytest.mark.parametrize("name", CASES)
def test_without_damage_a_call_is_answered(name):
    function, arguments = CASES[name]()
    function(**arguments)


@needs("msgspec")
@pytest.mark.parametrize("guard", GUARDS)
def test_a_guard_that_is_missing_is_noticed(guard):
    status, printed, last = attack("--seed", 3, "--count", 2000, "--without", guard)
    assert status != 0, (printed, last)
    assert "the guard is not there" not in str(last)
