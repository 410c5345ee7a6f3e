"""Whatever is wrong with records and tables, compiled loops end and say so: only kill would stop an endless one."""

import os
import subprocess
import sys

import pytest
from support import broken_tables

SECONDS = 900
"""Compilation, where nothing is compiled yet, included."""
ENDING = {
    "looking_up_where_every_bucket_has_overflowed",
    "going_on_behind_a_ring_without_a_first_block",
    "a_reset_after_a_fault",
}


@pytest.fixture(scope="module")
def endings():
    """How each scene ended, in a process that may be killed."""
    process = subprocess.Popen(
        [sys.executable, broken_tables.__file__],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        out, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        out, _ = process.communicate()
    return dict(line.split(" ", 1) for line in out.splitlines())


@pytest.mark.parametrize("scene", [scene.__name__ for scene in broken_tables.SCENES])
def test_it_ends(endings, scene):
    assert scene in endings, "it never ended, or a scene before it"
    if scene in ENDING:
        assert endings[scene] == "ended"
    else:
        assert endings[scene].startswith("InvariantError: ")
