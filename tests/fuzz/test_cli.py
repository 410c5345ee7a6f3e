"""Whatever the command line is: the status is 0, 1 or 2, and nobody sees a traceback."""

import contextlib
import io
import os
import shutil

import pytest
from bounded import bounded, num_inputs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trace_bytes import nearly_traces
from traces import line

from kvgpu.cli import main

MEMORY = 4 << 30
SECONDS = 120
NUMBERS = [
    "0", "1", "-1", "16", "7", "2000", "2147483647", "2147483648", str(2**63), "9" * 5000, "1.5", "nan", "inf",
    "-inf", "1e300", "", " ", "0x10", "1_0", "\N{ARABIC-INDIC DIGIT THREE}", "\N{SUPERSCRIPT TWO}", "\x1b[31m",
]  # fmt: skip
PATHS = ["out", "folder/out", "folder", "missing/out", ".", "", "/dev/null", "/dev/full", "a\0b", "\udcff\x1b",
         "trace.jsonl", "x" * 300, "\ud800"]  # fmt: skip
OPTIONS = {
    "--format": ["auto", "mooncake", "bailian", "csv", ""],
    "--skip-bad-lines": [],
    "--no-decode": [],
    "--trace-block-size": ["16", "512", *NUMBERS],
    "--limit": ["3", *NUMBERS],
    "--num-blocks": ["500", "100", "2", *NUMBERS],
    "--block-size": ["16", "8", *NUMBERS],
    "--groups": [
        "full", "full+swa:64", "swa:32", "mla", "chunked:64", "mamba", "full+mamba:align", "full@32+swa:64",
        "swa:0", "swa:-1", "swa:" + "9" * 30, "full+", "+", "full:1", "moon", "mamba:x", "full@0", "chunked",
        "swa:2147483647@2147483647", "full@" + "9" * 5000, "\x1b", "full+full",
    ],
    "--hash": ["sha256", "xxhash", "kvgpu128", "md5", ""],
    "--backend": ["host", "reference", "nowhere", ""],
    "--max-running": ["2", *NUMBERS],
    "--max-batched-tokens": ["64", *NUMBERS],
    "--clock": ["order", "trace", "wall"],
    "--step-ms": ["5", *NUMBERS],
    "--token-us": ["5", *NUMBERS],
    "--policy": ["fcfs", "longest-prefix", "hold-back", "best"],
    "--age-limit-ms": ["5", *NUMBERS],
    "--sweep-blocks": ["100,200", "100", "0", "5,-1", "100,2147483648", "", ",", *NUMBERS],
    "--json": ["-", *PATHS],
    "--events": PATHS,
    "--report": PATHS,
    "--help": [],
    "--version": [],
    "--nonsense\x1b[31m": ["1"],
}  # fmt: skip


@st.composite
def command_lines(draw):
    """A command line, some of it odd, and perhaps with words lost, doubled or in another order."""
    words = ["replay"]
    if draw(st.booleans()):
        words.append(draw(st.sampled_from(["trace.jsonl"] * 8 + ["/dev/zero", *PATHS])))
    # A pool and a trace that are small, unless an option says otherwise.
    words += ["--num-blocks", "500", "--limit", "5"]
    for option in draw(st.lists(st.sampled_from(list(OPTIONS)), max_size=4)):
        values = OPTIONS[option]
        good = values[: max(1, len(values) // 3)]
        words.append(option)
        words += [draw(st.sampled_from(good) | st.sampled_from(values))] if values else []
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


@settings(max_examples=num_inputs(200), deadline=None, suppress_health_check=list(HealthCheck))
@given(words=command_lines(), content=st.just(line(input_length=40)) | nearly_traces())
def test_a_command_ends_with_a_status_and_leaves_no_half_file(folder, words, content):
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / "folder").mkdir()
    (folder / "trace.jsonl").write_bytes(content)
    (folder / "out").write_bytes(b"old")
    err = io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err),
            bounded(SECONDS, MEMORY),
        ):  # fmt: skip
            status = main(words)
    except SystemExit as leaves:
        status = leaves.code
    assert status in (0, 1, 2)
    shown = err.getvalue()
    assert [c for c in shown if not c.isprintable() and c != "\n"] == []
    if status == 2:
        assert "error: " in shown.splitlines()[-1]
        assert (folder / "out").read_bytes() == b"old"
    assert [path for path in folder.rglob("*") if path.name.startswith(".kvgpu-")] == []
