"""What a row says of the machine it was measured on; nothing of it has to be installed."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from harness import machine, versions
from on_gpu.rehearsal import IN_WORDS

DRIVER_FILE = Path("/proc/driver/nvidia/version")


def driver() -> str:
    """Version of the driver, by nvidia-smi or from the kernel, else `unknown`."""
    if shutil.which("nvidia-smi"):
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=20)
        except (OSError, subprocess.SubprocessError):
            done = None
        found = done.stdout.split() if done is not None and done.returncode == 0 else []
        if found:
            return str(found[0])
    try:
        version = re.search(r"Module\b.*?\s(\d+\.[\d.]+)", DRIVER_FILE.read_text())
    except OSError:
        version = None
    return version[1] if version else "unknown"


def described(rehearse: str) -> dict[str, Any]:
    """device: name of the GPU. machine: with driver, CUDA and CPU. versions: of packages."""
    if rehearse:
        return {"device": IN_WORDS[rehearse], "machine": machine(), "versions": versions()}
    import torch

    name = torch.cuda.get_device_name(0)
    words = f"{name}, driver {driver()}, CUDA {torch.version.cuda}, {machine()}"
    return {"device": name, "machine": words, "versions": versions()}
