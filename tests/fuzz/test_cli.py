"""Whatever the command line is: the status is 0, 1 or 2, and nobody sees a traceback."""

import contextlib
import io
import os
import shutil
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.bounded import bounded, num_inputs
from support.trace_bytes import nearly_traces
from support.traces import line

from kvgpu.cli import main

MEMORY = 4 << 30
SECONDS = 120
NO_NUMBERS = [
    "nan",
    "inf",
    "-inf",
    "1e300",
    "-1",
    str(2**63),
    "9" * 5000,
    "",
    " ",
    "0x10",
    "\N{SUPERSCRIPT TWO}",
    "\x1b[31m",
]
NO_COUNTS = ["0", "1.5", "2147483648", *NO_NUMBERS]
COUNTS = ["1", "2", "16", "7", "1_0", "\N{ARABIC-INDIC DIGIT THREE}"]
TIMES = ["5", "0.5", "1e12"]
NO_FILES = ["folder", "missing/out", ".", "", "/dev/full/out", "a\0b", "x" * 300, "\ud800", "trace.jsonl"]
FILES = ["out", "folder/out", "/dev/null", "\udcff\x1b"]
ODD_NAME = "odd\x1b[31m\n\udcff"

OPTIONS: dict[str, tuple[list[str], list[str]]] = {
    "--format": (["auto", "mooncake"], ["csv", "", "\x1b"]),
    "--trace-block-size": (["512"], ["32769", *NO_COUNTS]),
    "--limit": (["3", str(2**31)], [word for word in NO_COUNTS if word != str(2**31)]),
    "--num-blocks": (["500", "100", "2"], NO_COUNTS),
    "--block-size": ([*COUNTS, "2147483647"], NO_COUNTS),
    "--groups": (
        ["full", "full+swa:64", "swa:32", "mla", "chunked:64", "mamba", "full+mamba:align", "full@32+swa:64"],
        [
            "swa:0",
            "swa:-1",
            "swa:" + "9" * 30,
            "swa:2147483648",
            "full@2147483648",
            "full+",
            "+",
            "full:1",
            "moon",
            "mamba:x",
            "full@0",
            "chunked",
            "full@" + "9" * 5000,
            "\x1b",
            "full+full",
            "full@65521+swa:9@65519",
        ],
    ),
    "--hash": (["sha256", "xxhash", "kvgpu128"], ["md5", ""]),
    "--backend": (["host", "reference"], ["nowhere", "\x1b"]),
    "--max-running": (COUNTS, NO_COUNTS),
    "--max-batched-tokens": (["64", *COUNTS], NO_COUNTS),
    "--clock": (["order", "trace"], ["wall"]),
    "--step-ms": (TIMES, NO_NUMBERS),
    "--token-us": (TIMES, NO_NUMBERS),
    "--policy": (["fcfs", "longest-prefix", "hold-back"], ["best", ""]),
    "--age-limit-ms": (["0", *TIMES], NO_NUMBERS),
    "--sweep-blocks": (["100,200", "100"], ["5,-1", "100,2147483648", ",", *NO_COUNTS]),
    "--json": (["-", *FILES], NO_FILES),
    "--events": (FILES, NO_FILES),
    "--report": (FILES, NO_FILES),
}
"""Good values of each, and those that must be refused, whatever the trace is."""

FLAGS = ["--skip-bad-lines", "--no-decode", "--help", "--version", "--nonsense\x1b[31m"]
SMALL = ["--num-blocks", "500", "--limit", "5"]


def one_bad_value():
    """An option with a value that must be refused."""
    pairs = [(option, value) for option, (_, bad) in OPTIONS.items() for value in bad]
    # More memory than `MEMORY`.
    return st.sampled_from([*pairs, ("--num-blocks", "2147483647")])


@st.composite
def command_lines(draw):
    """A command line, some of it odd, and perhaps with words lost, doubled or in another order."""
    traces = ["trace.jsonl", "trace.jsonl", ODD_NAME, "/dev/zero", *NO_FILES]
    words = ["replay", *draw(st.lists(st.sampled_from(traces), max_size=1)), *SMALL]
    for option in draw(st.lists(st.sampled_from([*OPTIONS, *FLAGS]), max_size=4)):
        words.append(option)
        if option in OPTIONS:
            good, bad = OPTIONS[option]
            words.append(draw(st.sampled_from(good) | st.sampled_from(good) | st.sampled_from(bad)))
    for change in draw(st.lists(st.sampled_from(["lose", "double", "swap"]), max_size=1)):
        at = draw(st.integers(0, len(words) - 1))
        other = draw(st.integers(0, len(words) - 1))
        if change == "swap":
            words[at], words[other] = words[other], words[at]
        else:
            words[at : at + 1] = [] if change == "lose" else [words[at]] * 2
    return words


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("commands")
    before = os.getcwd()
    os.chdir(path)
    yield path
    os.chdir(before)


def status_of(folder, words, content):
    """The exit status, after a look at what a command must do or leave alone however it ends."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / "folder").mkdir()
    for name in ("trace.jsonl", ODD_NAME):
        (folder / name).write_bytes(content)
    (folder / "out").write_bytes(b"old")
    err = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err), bounded(SECONDS, MEMORY):
            status = main(words)
    except SystemExit as leaves:
        status = leaves.code
    shown = err.getvalue()
    assert [c for c in shown if not c.isprintable() and c != "\n"] == []
    if status == 2:
        assert "error: " in shown.splitlines()[-1]
        assert (folder / "out").read_bytes() == b"old"
    assert [path for path in folder.rglob("*") if path.name.startswith(".kvgpu-")] == []
    return status


fuzzed = partial(settings, deadline=None, suppress_health_check=list(HealthCheck))


@fuzzed(max_examples=num_inputs(150))
@given(words=command_lines(), content=st.just(line(input_length=40)) | nearly_traces())
def test_a_command_ends_with_a_status_and_leaves_no_half_file(folder, words, content):
    assert status_of(folder, words, content) in (0, 1, 2)


@fuzzed(max_examples=num_inputs(400))
@given(bad=one_bad_value(), data=st.data())
def test_a_bad_value_is_refused_among_good_ones(folder, bad, data):
    option, value = bad
    others = [name for name in OPTIONS if name != option and name not in ("--json", "--events", "--report")]
    words = ["replay", "trace.jsonl", *SMALL]
    for name in data.draw(st.lists(st.sampled_from(others), max_size=2, unique=True)):
        words += [name, data.draw(st.sampled_from(OPTIONS[name][0]))]
    assert status_of(folder, [*words, option, value], line(input_length=40)) == 2


@pytest.mark.parametrize("content", [b"\x1b[31m", b'{"\\u001b[31m": 1}', bytes(40)])
def test_a_file_with_an_odd_name_is_complained_about_in_one_visible_line(folder, content):
    assert status_of(folder, ["replay", ODD_NAME], content) == 2
