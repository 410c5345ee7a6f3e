"""What runs beside the worker in processes of its own: warm-ups, tests, sanitizers, the profiler; needs no torch."""

import csv
import io
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from on_gpu import rehearsal

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORKERS = "8"
"""Processes that run the tests, each with a context on the GPU."""


NEEDED = {"triton": ("torch", "triton"), "cuda": ("torch", "triton", "cupy")}
"""Packages of an engine."""


class LeftOut(Exception):
    """It cannot run here; the message says why."""


def need(*packages: str) -> None:
    """
    Raises:
        LeftOut: One of the packages is not installed.
    """
    for package in packages:
        if find_spec(package) is None:
            raise LeftOut(f"{package} is not installed")


class Tool:
    """A command and what its output means.

    name: of its rows. seconds: at most. is_check: whether it must pass before a table is published. counts:
    whether its failure is one of the run.
    """

    name: str
    seconds: float = 90
    is_check = False
    counts = True

    def command(self, rehearse: str) -> list[str]:
        """What to start.

        Raises:
            LeftOut: Something it needs is not installed.
        """
        raise NotImplementedError

    def rows(self, status: int, output: str) -> list[dict[str, Any]]:
        """What to write when it has ended.

        Raises:
            LeftOut: The tool does not work on this machine.
            AssertionError: It found something.
        """
        assert status == 0, f"exit status {status}: {output[-1500:]}"
        return []


class WarmUp(Tool):
    """Compiles what blocks need, by running them small, while other processors would be idle."""

    counts = False
    seconds = 75

    def __init__(self, name: str, blocks: Sequence[str]) -> None:
        self.name, self._blocks = name, list(blocks)

    def command(self, rehearse: str) -> list[str]:
        if rehearse == rehearsal.INTERPRETED:
            raise LeftOut("the interpreter compiles nothing")
        return rehearsal.worker(rehearse, "--warm", *self._blocks)


class PytestOnDevice(Tool):
    """The project's own tests of kernels and indexes, without those that only compile."""

    name = "tests on the device"
    is_check = True
    UNTESTED = ("tests/kernels/test_aot.py", "tests/kernels/test_cuda_sources.py")
    TESTED = (*(f"--ignore={path}" for path in UNTESTED), "tests/kernels", "tests/index/test_index.py")
    REHEARSED = ("tests/kernels/test_view.py",)

    def command(self, rehearse: str) -> list[str]:
        need("pytest", "hypothesis")
        options = ["-q", "-rs", "-p", "no:cacheprovider", "-o", "filterwarnings=default"]
        parallel = find_spec("xdist") is not None and not rehearse
        return [
            sys.executable,
            "-m",
            "pytest",
            *options,
            *(("-n", WORKERS) if parallel else ()),
            *(("--kernels", rehearse) if rehearse else ()),
            *(self.REHEARSED if rehearse else self.TESTED),
        ]

    def rows(self, status: int, output: str) -> list[dict[str, Any]]:
        super().rows(status, output)
        return [{"says": output.strip().splitlines()[-1]}]


class Sanitizer(Tool):
    """compute-sanitizer over a small self-test; only what kernels do counts, not what the CUDA API says to torch."""

    is_check = True
    TESTED = "from kvgpu.device.selftest import SelfTest; SelfTest({engine!r}, 16, 300).run(2)"

    def __init__(self, engine: str, check: str) -> None:
        self.name = f"compute-sanitizer {check}, {engine}"
        self._engine, self._check = engine, check

    def command(self, rehearse: str) -> list[str]:
        tool = shutil.which("compute-sanitizer")
        if tool is None:
            raise LeftOut("compute-sanitizer is not installed")
        need(*NEEDED[self._engine])
        return [
            tool,
            "--tool",
            self._check,
            "--report-api-errors",
            "no",
            "--error-exitcode",
            "99",
            sys.executable,
            "-c",
            self.TESTED.format(engine=self._engine),
        ]

    def rows(self, status: int, output: str) -> list[dict[str, Any]]:
        if status and "Device not supported" in output:
            raise LeftOut("compute-sanitizer does not support this device")
        super().rows(status, output)
        assert "ERROR SUMMARY" in output, f"no summary: {output[-1500:]}"
        return [{"says": line} for line in output.splitlines() if "ERROR SUMMARY" in line]


class Profile(Tool):
    """ncu over one launch of each kernel of the table."""

    seconds = 45
    METRICS = (
        "gpu__time_duration.sum",
        "dram__bytes_read.sum",
        "dram__bytes_write.sum",
        "dram__throughput.avg.pct_of_peak_sustained_elapsed",
        "lts__t_sectors_op_read.sum",
        "lts__t_sector_hit_rate.pct",
        "l1tex__t_requests_pipe_lsu_mem_global_op_ld.sum",
        "l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum",
        "l1tex__average_t_sectors_per_request_pipe_lsu_mem_global_op_ld.ratio",
        "l1tex__data_pipe_lsu_wavefronts_mem_lg.sum",
        "sm__warps_active.avg.pct_of_peak_sustained_active",
        "sm__throughput.avg.pct_of_peak_sustained_elapsed",
        "launch__registers_per_thread",
        "launch__occupancy_limit_registers",
        "smsp__inst_executed.sum",
        "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio",
        "smsp__average_warps_issue_stalled_lg_throttle_per_issue_active.ratio",
        "smsp__average_warps_issue_stalled_wait_per_issue_active.ratio",
        "smsp__average_warps_issue_stalled_short_scoreboard_per_issue_active.ratio",
        "smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio",
    )

    def __init__(self, engine: str) -> None:
        self.name = f"profile, {engine}"
        self._engine = engine

    def command(self, rehearse: str) -> list[str]:
        tool = shutil.which("ncu")
        if tool is None:
            raise LeftOut("ncu is not installed")
        need(*NEEDED[self._engine])
        return [
            tool,
            "--clock-control",
            "none",
            "--profile-from-start",
            "off",
            "--metrics",
            ",".join(self.METRICS),
            "--csv",
            "--page",
            "raw",
            sys.executable,
            str(HERE / "profiled.py"),
            self._engine,
            *(("small",) if rehearse else ()),
        ]

    def rows(self, status: int, output: str) -> list[dict[str, Any]]:
        if "ERR_NVGPUCTRPERM" in output:
            raise LeftOut("this user may not read the counters of the GPU")
        super().rows(status, output)
        found = profiled(output)
        assert found, f"no kernel in the output: {output[-1500:]}"
        return found


def profiled(output: str) -> list[dict[str, Any]]:
    """A record for each kernel in ncu's CSV: a line of names, one of units, one a launch."""
    lines = output.splitlines()
    first = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    table = list(csv.reader(io.StringIO("\n".join(lines[first:]))))
    if len(table) < 3:
        return []
    names, units, *launches = table
    return [
        {
            "kernel": dict(zip(names, launch, strict=False)).get("Kernel Name", ""),
            "metrics": {
                f"{name} [{unit}]" if unit else name: value
                for name, unit, value in zip(names, units, launch, strict=False)
                if "__" in name
            },
        }
        for launch in launches
        if launch and launch[0].isdigit()
    ]
