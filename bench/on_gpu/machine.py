"""What a row says of the machine it was measured on; nothing of it has to be installed."""

import re
import subprocess
from pathlib import Path
from typing import Any

from harness import machine, versions

DRIVER_FILE = Path("/proc/driver/nvidia/version")
CLOCKS = ("clocks.current.sm", "clocks.max.sm", "clocks.current.memory", "clocks.max.memory")
UNKNOWN = "unknown"
PATIENCE = 5
"""Seconds that nvidia-smi may take."""


def asked(*names: str, gpu: str = "") -> list[str]:
    """What nvidia-smi says under these names of a GPU, by its identifier, else of the first; [] if it cannot."""
    command = ["nvidia-smi", *([f"--id={gpu}"] if gpu else []), f"--query-gpu={','.join(names)}"]
    try:
        done = subprocess.run(
            [*command, "--format=csv,noheader"], capture_output=True, text=True, check=False, timeout=PATIENCE
        )
    except (OSError, subprocess.SubprocessError):
        return []
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    values = [value.strip() for value in lines[0].split(",")] if lines else []
    return values if len(values) == len(names) else []


def clocks() -> str:
    """Clocks at which the GPU that torch uses runs now, else `unknown`."""
    import torch

    uuid = getattr(torch.cuda.get_device_properties(0), "uuid", None)
    found = asked(*CLOCKS, gpu=f"GPU-{uuid}") if uuid else []
    return f"SM {found[0]} of {found[1]}, memory {found[2]} of {found[3]}" if found else UNKNOWN


def driver() -> str:
    """Version of the driver, by nvidia-smi or from the kernel, else `unknown`."""
    found = asked("driver_version")
    if found:
        return found[0]
    try:
        version = re.search(r"Module\b.*?\s(\d+\.[\d.]+)", DRIVER_FILE.read_text())
    except OSError:
        version = None
    return version[1] if version else UNKNOWN


def described() -> dict[str, Any]:
    """device: name of the GPU. machine: with driver, CUDA and CPU. versions: of packages."""
    import torch

    name = torch.cuda.get_device_name(0)
    words = f"{name}, driver {driver()}, CUDA {torch.version.cuda}, {machine()}"
    return {"device": name, "machine": words, "versions": versions()}
