"""The benchmark for machines with a GPU, rehearsed in the interpreter."""

import subprocess
import sys
from pathlib import Path

import device_tools  # noqa: F401 - skips where no kernel can run

ROOT = Path(__file__).resolve().parent.parent


def rehearse(*preparation):
    code = "\n".join([
        "import sys", "sys.argv = ['gpu.py', '--rehearse']", "sys.path.insert(0, 'bench')",
        "import os", "os.environ['TRITON_INTERPRET'] = '1'", *preparation,
        "import gpu", "sys.exit(gpu.main())",
    ])  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )


def test_a_rehearsal_passes_all_checks_and_prints_no_speed():
    done = rehearse()
    assert done.returncode == 0, done.stderr
    assert "self-test of triton: passed" in done.stdout
    assert "rehearsed" in done.stdout
    assert "ns/" not in done.stdout


def test_without_a_passed_check_there_is_no_speed():
    done = rehearse(
        "sys.path.insert(0, '.')",
        "from kvgpu.block_hash_table import BlockHashTable",
        "from kvgpu.kernels import triton_engine",
        "triton_engine.launch_find = lambda table, keys, groups, ids: ids.fill_(0)",
    )
    assert done.returncode == 2
    assert "no speed is printed" in done.stderr
