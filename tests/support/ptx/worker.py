"""The worker of `bench/gpu.py --rehearse compiled`: that of a GPU, with compiled kernels that run on the CPU."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:1] = [str(ROOT), str(ROOT / "bench"), str(ROOT / "tests")]  # not this folder, whose names are not for blocks

from on_gpu import worker  # noqa: E402
from support.ptx import triton_driver  # noqa: E402

if __name__ == "__main__":
    triton_driver.install()
    sys.exit(worker.main())
