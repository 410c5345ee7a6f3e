"""The CUDA twins compile for every target, without a GPU."""

import re
import shutil
import subprocess

import pytest

from kvgpu.kernels.aot import TARGETS
from kvgpu.kernels.cuda_engine import DEFINED, SOURCES, defines

NVCC = shutil.which("nvcc")

needs_nvcc = pytest.mark.skipif(NVCC is None, reason="nvcc is not installed: the CUDA sources were not compiled")


@needs_nvcc
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", sorted(path.stem for path in SOURCES.glob("*.cu")))
def test_a_source_compiles_without_warnings_and_spills(tmp_path, name, target):
    done = subprocess.run(
        [
            NVCC,
            "-std=c++17",
            *defines(),
            f"-arch=sm_{target}",
            "-Werror",
            "all-warnings",
            "-Xptxas",
            "-v,-Werror",
            "-cubin",
            "-o",
            str(tmp_path / "out.cubin"),
            str(SOURCES / f"{name}.cu"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    spills = [line for line in done.stderr.splitlines() if "bytes spill" in line]
    assert spills
    assert all("0 bytes spill stores, 0 bytes spill loads" in line for line in spills)


def test_every_constant_of_the_sources_is_one_of_the_layout():
    used = set()
    for path in SOURCES.iterdir():
        used |= set(re.findall(r"\bKVGPU_([A-Z_0-9]*[A-Z0-9])\b", path.read_text()))
    assert used - {"DEVICE"} <= {name for names in DEFINED.values() for name in names}
    assert all(isinstance(getattr(module, name), int) for module, names in DEFINED.items() for name in names)
