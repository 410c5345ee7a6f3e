"""Parts of the GPU's benchmark that need no GPU: how times are taken, and what a machine says of itself."""

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.benchmarks import bench_module
from support.device.tables import torch

ROOT = Path(__file__).resolve().parents[2]
NVCC = shutil.which("nvcc")


class FakeGPU:
    """A stream of work on a clock of its own: Python's clock runs on while work is handed over."""

    def __init__(self, launch=20e-6, kernel=5e-6):
        self.launch, self.kernel = launch, kernel
        self.python = self.free = 0.0
        self.resets = 0

    def work(self, seconds):
        self.free = max(self.free, self.python) + seconds

    def start(self):
        self.python += self.launch
        self.work(self.kernel)

    def wait(self):
        self.python = max(self.python, self.free)

    def start_and_wait(self):
        self.start()
        self.wait()

    def reset(self):
        self.resets += 1
        self.start()

    def cuda(self):
        gpu = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at = max(gpu.free, gpu.python)

            def query(self):
                return self.at <= gpu.python

            def synchronize(self):
                gpu.python = max(gpu.python, self.at)

            def elapsed_time(self, end):
                return 1e3 * (end.at - self.at)

        return SimpleNamespace(
            Event=Event, is_available=lambda: True, synchronize=self.wait, _sleep=lambda cycles: self.work(cycles / 2e9)
        )


@pytest.fixture
def timed(monkeypatch):
    """The module that times, and a way to put a GPU in."""
    module = bench_module("on_gpu.timing")

    def on(gpu):
        monkeypatch.setattr(torch, "cuda", gpu.cuda())
        return module

    return on


@pytest.mark.parametrize("kernel", [2e-6, 5e-6, 1e-3])
@pytest.mark.parametrize("launch", [1e-6, 20e-6, 300e-6])
def test_times_are_free_of_what_a_launch_costs(timed, kernel, launch):
    gpu = FakeGPU(launch, kernel)
    assert timed(gpu).seconds(gpu.start, 3) == pytest.approx([kernel] * 3)


def test_what_is_reset_before_each_time_is_not_timed(timed):
    gpu = FakeGPU(kernel=7e-6)
    assert timed(gpu).seconds(gpu.start, 5, gpu.reset) == pytest.approx([7e-6] * 3)
    assert gpu.resets >= 5


def test_what_waits_for_the_device_is_not_timed(timed):
    gpu = FakeGPU()
    with pytest.raises(AssertionError, match="waits for the device"):
        timed(gpu).seconds(gpu.start_and_wait, 3)


def test_alone_a_launch_costs_what_it_costs(timed):
    gpu = FakeGPU(launch=20e-6, kernel=5e-6)
    assert timed(gpu).seconds_alone(gpu.start, 3) == pytest.approx([25e-6] * 3)


@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed: ceilings.cu was not compiled")
def test_the_ceilings_compile_without_warnings_and_spills(tmp_path):
    command = [
        NVCC,
        "-std=c++17",
        "-arch=sm_90",
        "-Werror",
        "all-warnings",
        "-Xptxas",
        "-v,-Werror",
        "-cubin",
        "-o",
        str(tmp_path / "out.cubin"),
        "bench/on_gpu/ceilings.cu",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    compiled = {line.split("'")[1] for line in done.stderr.splitlines() if "Compiling" in line}
    kernels = bench_module("on_gpu.ceilings").KERNELS.values()
    assert compiled == {"nothing"}.union(*kernels)
    assert done.stderr.count("0 bytes spill stores, 0 bytes spill loads") == len(compiled)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Mon\n", "580.159.04"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.1.2  Release\n", "580.1.2"),
        ("else", "unknown"),
        (None, "unknown"),
    ],
)
def test_the_driver_is_known_without_nvidia_smi(monkeypatch, tmp_path, text, version):
    machine = bench_module("on_gpu.machine")
    file = tmp_path / "version"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(machine, "DRIVER_FILE", file)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.driver() == version


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("echo '1980 MHz, 1980 MHz, 3201 MHz, 3201 MHz'", "SM 1980 MHz of 1980 MHz, memory 3201 MHz of 3201 MHz"),
        ("echo 'No devices were found'; exit 6", "unknown"),
        ("echo '[N/A]'", "unknown"),
        ("exec sleep 30", "unknown"),
        (None, "unknown"),
    ],
)
def test_clocks_are_known_where_nvidia_smi_knows_them(monkeypatch, tmp_path, code, words):
    machine = bench_module("on_gpu.machine")
    monkeypatch.setattr(machine, "PATIENCE", 1)
    properties = SimpleNamespace(uuid="00000000-0000-0000-0000-000000000001")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    if code is not None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f'#!/bin/sh\ntest "$1" = --id=GPU-{properties.uuid} || exit 2\n{code}\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert machine.clocks() == words
