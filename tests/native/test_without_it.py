"""kvgpu without the extension in C, as where there was no compiler."""

import os
import subprocess
import sys

import pytest

SERVE = """
import sys
{before}
from kvgpu import native
from kvgpu.warmup.parts import PROMPT, _manager, _request
assert native.Calls is native.block_ids is native.read_ints is None
manager, request = _manager(), _request()
assert manager.native is None
blocks, num_hits = manager.get_computed_blocks(request)
print(manager.allocate_slots(request, PROMPT).get_block_ids(), manager.get_block_ids(request.request_id))
manager.free(request)
manager.check()
"""


@pytest.mark.parametrize(
    ("before", "value"),
    [("", "0"), ("sys.modules['kvgpu.native._calls'] = None", "1")],
    ids=["switched off", "not built"],
)
def test_python_serves(before, value):
    command = [sys.executable, "-c", SERVE.format(before=before)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "KVGPU_NATIVE": value}
    )
    assert (done.stdout, done.stderr) == ("([1, 2, 3, 4],) ([1, 2, 3, 4],)\n", "")
