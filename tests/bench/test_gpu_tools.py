"""What the tools of the GPU's benchmark are told and say, without a GPU."""

from pathlib import Path

import pytest
import support.device.tables  # noqa: F401 - skips where no kernel can run
from support.benchmarks import bench_module

ROOT = Path(__file__).resolve().parents[2]

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


def test_counters_that_a_user_may_not_read_leave_the_profile_out(tools):
    refused = "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access NVIDIA GPU Performance Counters"
    with pytest.raises(tools.LeftOut, match="may not read the counters"):
        tools.Profile("triton").rows(1, refused)


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
