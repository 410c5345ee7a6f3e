"""Parts of the GPU's benchmark that need no GPU: how times are taken, and what tools are told and say."""

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


# Tools

PROFILE = """==PROF== Connected to process 12
==PROF== Profiling "find_kernel" - 0: 0%....100% - 9 passes
"ID","Process ID","Kernel Name","Block Size","dram__bytes_read.sum","gpu__time_duration.sum"
"","","","","Mbyte","us"
"0","12","find_kernel","(32, 1, 1)","812.5","301.1"
"1","12","probe_kernel","(32, 1, 1)","1.5","9.25"
==PROF== Disconnected
"""


@pytest.fixture
def tools():
    return bench_module("on_gpu.tools")


def test_a_profile_becomes_a_record_for_each_kernel(tools):
    assert tools.Profile("triton").rows(0, PROFILE) == [
        {
            "kernel": "find_kernel",
            "metrics": {"dram__bytes_read.sum [Mbyte]": "812.5", "gpu__time_duration.sum [us]": "301.1"},
        },
        {
            "kernel": "probe_kernel",
            "metrics": {"dram__bytes_read.sum [Mbyte]": "1.5", "gpu__time_duration.sum [us]": "9.25"},
        },
    ]


def test_a_profile_without_kernels_is_a_failure(tools):
    with pytest.raises(AssertionError, match="no kernel"):
        tools.Profile("triton").rows(0, "==ERROR== LibraryNotLoaded")


@pytest.fixture
def installed(monkeypatch, tools):
    """Every program and every package, but for those that are named."""

    def but(*missing):
        monkeypatch.setattr(tools.shutil, "which", lambda name: None if name in missing else name)
        monkeypatch.setattr(tools, "find_spec", lambda name: None if name in missing else name)

    return but


def test_the_profiler_leaves_the_clocks_alone(tools, installed):
    installed()
    command = tools.Profile("triton").command(False)
    assert command[:3] == ["ncu", "--clock-control", "none"]
    assert Path(command[-2]).exists()


def test_the_sanitizer_counts_only_what_kernels_do(tools, installed):
    installed()
    command = " ".join(tools.Sanitizer("cuda", "initcheck").command(False))
    assert "--tool initcheck --report-api-errors no" in command
    code = tools.Sanitizer("cuda", "initcheck").command(False)[-1]
    compile(code, "tested", "exec")


@pytest.mark.parametrize(
    ("status", "output", "error"),
    [
        (0, "========= ERROR SUMMARY: 0 errors", None),
        (99, "========= ERROR SUMMARY: 1 error", AssertionError),
        (0, "", AssertionError),
        (1, "Error: Device not supported", "LeftOut"),
    ],
)
def test_what_the_sanitizer_says(tools, status, output, error):
    check = tools.Sanitizer("triton", "memcheck")
    if error is None:
        assert check.rows(status, output) == [{"says": output}]
    else:
        with pytest.raises(tools.LeftOut if error == "LeftOut" else error):
            check.rows(status, output)


def test_the_tests_run_in_parallel_where_they_can(tools, installed):
    installed()
    assert "-n 8" in " ".join(tools.PytestOnDevice().command(False))
    installed("xdist")
    assert "-n" not in tools.PytestOnDevice().command(False)


def test_the_tests_that_are_run_are_there_and_warnings_are_no_errors(tools, installed):
    installed()
    command = tools.PytestOnDevice().command(False)
    assert "filterwarnings=default" in command
    named = [word for word in command if word.startswith("tests/")]
    assert named
    assert all((ROOT / name).exists() for name in named)


@pytest.mark.parametrize(
    ("tool", "missing"),
    [
        (lambda tools: tools.PytestOnDevice(), "pytest"),
        (lambda tools: tools.PytestOnDevice(), "hypothesis"),
        (lambda tools: tools.Sanitizer("cuda", "memcheck"), "cupy"),
        (lambda tools: tools.Sanitizer("triton", "memcheck"), "compute-sanitizer"),
        (lambda tools: tools.Profile("triton"), "ncu"),
        (lambda tools: tools.Profile("triton"), "triton"),
    ],
)
def test_what_is_not_installed_leaves_a_tool_out(tools, installed, tool, missing):
    installed(missing)
    with pytest.raises(tools.LeftOut, match=f"{missing} is not installed"):
        tool(tools).command(False)


def test_a_warm_up_names_blocks_that_there_are(tools):
    blocks = bench_module("on_gpu.blocks")
    names = {block.name for step in blocks.STEPS for block in step.blocks}
    warm = [tool for step in blocks.STEPS for tool in step.tools if isinstance(tool, tools.WarmUp)]
    assert warm
    for tool in warm:
        command = tool.command(False)
        assert set(command[command.index("--warm") + 1 :]) <= names


# Cases


def test_the_table_inside_the_cache_is_asked_for_many_keys_of_16_bytes():
    sizes = bench_module("on_gpu.sizes")
    case = sizes.INSIDE_CACHE
    assert (case.entries, case.batch, case.key_bytes) == (2**18, 2**22, 16)
    assert case in sizes.Sizes().goal_finds


def test_every_case_is_measured_once():
    sizes = bench_module("on_gpu.sizes").Sizes()
    finds = [*sizes.goal_finds, *sizes.finds]
    assert len(finds) == len(set(finds))
    queues = [*sizes.goal_queues, *sizes.queues]
    assert len(queues) == len(set(queues))


def test_the_lengths_of_a_skewed_queue():
    queue = bench_module("axes").Queue(4, 16, longest=8192)
    assert queue.lengths == (8192, 16, 16, 16)
    assert str(queue) == "4 requests of 16 blocks, the first of 8,192"


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
