"""The worker of `bench/gpu.py --rehearse`: that of a GPU, with a stand-in for the GPU."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:1] = [str(ROOT), str(ROOT / "bench"), str(ROOT / "tests")]  # not this folder, whose names are not for blocks

from on_gpu import worker  # noqa: E402
from support.rehearsal import gpu  # noqa: E402

if __name__ == "__main__":
    gpu.put_in_place()
    sys.exit(worker.main())
