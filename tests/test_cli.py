"""The command `kvgpu`: options, exit status, and one line for bad input."""

import argparse
import json
import os
import signal
import subprocess
import sys
from importlib import import_module

import pytest
from support.traces import line

from kvgpu import __version__
from kvgpu.cli import COMMANDS, main

REPLAY_OPTIONS = [
    "--format",
    "--trace-block-size",
    "--skip-bad-lines",
    "--limit",
    "--num-blocks",
    "--block-size",
    "--groups",
    "--hash",
    "--backend",
    "--max-running",
    "--max-batched-tokens",
    "--no-decode",
    "--clock",
    "--policy",
    "--age-limit-ms",
    "--step-ms",
    "--token-us",
    "--sweep-blocks",
    "--json",
    "--report",
    "--events",
]
OPTIONS = {"replay": REPLAY_OPTIONS, "doctor": ["--backend", "--json"]}
SMALL = ["--num-blocks", "2000", "--limit", "12"]


def run_module(*arguments):
    return subprocess.run([sys.executable, "-m", "kvgpu", *arguments], capture_output=True, text=True, check=False)


def test_as_a_module_in_a_pipe_it_shows_no_progress_bar():
    done = run_module("replay", *SMALL)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("conversations: 12 requests on ")


def test_as_a_module_it_exits_with_the_status(tmp_path):
    done = run_module("replay", str(tmp_path / "missing.jsonl"))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("command", OPTIONS)
def test_help_lists_every_option(capsys, command):
    with pytest.raises(SystemExit) as leaves:
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert leaves.value.code == 0
    assert [option for option in OPTIONS[command] if f"  {option}" not in shown] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_the_options_are_those_promised(command):
    parser = argparse.ArgumentParser(add_help=False)
    import_module(f"kvgpu.{command}.command").add_arguments(parser)
    found = [name for action in parser._actions for name in action.option_strings]
    assert sorted(found) == sorted(OPTIONS[command])


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert [name for name in COMMANDS if f"    {name} " not in shown] == []


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit) as leaves:
        main(["--version"])
    assert (leaves.value.code, capsys.readouterr().out) == (0, f"kvgpu {__version__}\n")


BAD = {
    "a missing file": ["{tmp}/missing.jsonl"],
    "a directory": ["{tmp}"],
    "a bad line": ["{bad}"],
    "format": ["{bad}", "--format", "csv"],
    "hash": ["--hash", "md5"],
    "backend": ["--backend", "nowhere"],
    "groups": ["--groups", "full+moon"],
    "argument of a group": ["--groups", "swa"],
    "digits of another script": ["--groups", "swa:\N{SUPERSCRIPT TWO}"],
    "limit": ["--limit", "0"],
    "block size": ["--block-size", "0"],
    "no blocks": ["--num-blocks", "0"],
    "negative blocks": ["--num-blocks", "-5"],
    "no running requests": ["--max-running", "0"],
    "no batched tokens": ["--max-batched-tokens", "0"],
    "step": ["--clock", "trace", "--step-ms", "-1"],
    "no blocks in a sweep": ["--sweep-blocks", "0"],
    "negative blocks in a sweep": ["--sweep-blocks", "-5"],
    "json": ["--json", "{tmp}/missing/out.json"],
    "report": ["--report", "{tmp}/missing/out.html"],
    "events": ["--events", "{tmp}/missing/out.jsonl"],
    "json into a folder": ["--json", "{tmp}"],
    "report into a folder": ["--report", "{tmp}"],
    "events into a file": ["--events", "{bad}/events"],
    "two files that are one": ["--json", "{tmp}/out", "--events", "{tmp}/./out"],
    "a file that is the trace": ["{bad}", "--json", "{bad}"],
    "a limit below 0": ["--limit", "-1"],
    "ids that are no int32": ["--num-blocks", str(2**31)],
    "blocks beyond 64 bits": ["--num-blocks", str(2**64)],
    "ids of a sweep that are no int32": ["--sweep-blocks", f"100,{2**31}"],
    "block size that is no int32": ["--block-size", str(2**31)],
    "negative block size": ["--block-size", "-16"],
    "tokens of an id": ["{bad}", "--trace-block-size", "0"],
    "too many tokens of an id": ["{bad}", "--trace-block-size", str(2**16)],
    "tokens of an id of no trace": ["--trace-block-size", "16"],
    "running requests": ["--max-running", str(2**31)],
    "negative running requests": ["--max-running", "-1"],
    "batched tokens": ["--max-batched-tokens", str(2**63)],
    "a step that never ends": ["--step-ms", "inf"],
    "a step of no number": ["--step-ms", "nan"],
    "a step of ages": ["--step-ms", "1e300"],
    "a token that never ends": ["--token-us", "inf"],
    "a token of no number": ["--token-us", "nan"],
    "a token before its time": ["--token-us", "-1"],
    "no time at all": ["--token-us", "0", "--step-ms", "0"],
    "age": ["--age-limit-ms", "-1"],
    "endless age": ["--age-limit-ms", "inf"],
    "age of no number": ["--age-limit-ms", "nan"],
    "a window of nothing": ["--groups", "full+swa:0"],
    "a window below nothing": ["--groups", "full+swa:-1"],
    "a window beyond 64 bits": ["--groups", "full+swa:99999999999999999999"],
    "a window of a thousand digits": ["--groups", "full+swa:" + "9" * 5000],
    "a chunk beyond 64 bits": ["--groups", "chunked:99999999999999999999"],
    "a block size of a group": ["--groups", "full@99999999999999999999"],
    "block sizes without a common multiple": ["--groups", "full@65521+swa:9@65519"],
    "a name that is none": ["a\0b"],
    "an output name that is none": ["--json", "a\0b"],
}


@pytest.mark.parametrize("arguments", BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_status_2_and_nothing_is_replayed(capsys, tmp_path, monkeypatch, arguments):
    monkeypatch.setattr("kvgpu.replay.scheduler.ReplayScheduler.run", lambda *_: pytest.fail("replayed"))
    monkeypatch.setattr("kvgpu.replay.command.warm_up", lambda options: None)
    bad = tmp_path / "bad.jsonl"
    content = line() + b"\nnonsense\n"
    bad.write_bytes(content)
    filled = [part.replace("{tmp}", str(tmp_path)).replace("{bad}", str(bad)) for part in arguments]
    status = main(["replay", "--limit", "2", "--num-blocks", "500", *filled])
    err = capsys.readouterr().err
    assert (status, err.count("\n"), err[:14]) == (2, 1, "kvgpu: error: ")
    assert [(path, path.read_bytes()) for path in tmp_path.iterdir()] == [(bad, content)]


def test_a_file_that_cannot_be_written_is_said_before_the_trace_is_read(capsys, tmp_path):
    # It is no trace, and would be refused.
    assert main(["replay", __file__, "--report", str(tmp_path / "missing" / "r.html")]) == 2
    assert "r.html" in capsys.readouterr().err


def test_a_report_without_matplotlib_is_refused_before_the_trace_is_read(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["replay", __file__, "--report", "/dev/null"]) == 2
    assert "kvgpu[report]" in capsys.readouterr().err


@pytest.fixture
def stops(monkeypatch):
    """Lets every replay end with an error."""

    def stops(error):
        def run(self, advance, sink=None):
            raise error

        monkeypatch.setattr("kvgpu.replay.scheduler.ReplayScheduler.run", run)
        monkeypatch.setattr("kvgpu.replay.command.warm_up", lambda options: None)

    return stops


OUTPUTS = ("json", "report", "events")


@pytest.mark.parametrize("old", [None, "old"])
def test_a_replay_that_fails_leaves_every_file_as_it_was(tmp_path, stops, old):
    paths = [tmp_path / name for name in OUTPUTS]
    if old is not None:
        for path in paths:
            path.write_text(old)
    stops(MemoryError("too much"))
    options = [word for name in OUTPUTS for word in (f"--{name}", str(tmp_path / name))]
    assert main(["replay", *SMALL, *options]) == 2
    left = {path: path.read_text() for path in tmp_path.iterdir()}
    assert left == ({} if old is None else dict.fromkeys(paths, old))


def test_no_memory_left_is_one_line_and_status_2(capsys, stops):
    stops(MemoryError("Unable to allocate 1 TiB"))
    assert main(["replay", *SMALL]) == 2
    assert capsys.readouterr().err == ("kvgpu: error: not enough memory: Unable to allocate 1 TiB\n")


def as_compiled_code_tells_it():
    error = SystemError("returned a result with an exception set")
    error.__cause__ = KeyboardInterrupt()
    return error


@pytest.mark.parametrize("make", [KeyboardInterrupt, as_compiled_code_tells_it])
def test_an_interrupt_is_one_line_and_status_130(capsys, stops, make):
    stops(make())
    assert main(["replay", *SMALL]) == 130
    assert capsys.readouterr().err == "kvgpu: interrupted\n"


@pytest.mark.parametrize("error", [ValueError("a bug"), SystemError("a bug"), RecursionError()])
def test_what_nobody_expected_is_not_hidden(stops, error):
    stops(error)
    with pytest.raises(type(error)) as raised:
        main(["replay", *SMALL])
    assert raised.value is error


def obeying_ctrl_c():
    """In a new process: a job in the background of a shell would ignore the signal."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_is_one_line_and_status_130(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [sys.executable, "-m", "kvgpu", "replay", str(pipe), "--json", str(tmp_path / "json")],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=obeying_ctrl_c,
    )
    with pipe.open("wb"):  # opens when the command has; that waits for what is never written
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "kvgpu: interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_what_a_terminal_would_obey_is_escaped(capsys, tmp_path):
    path = tmp_path / "\x1b[31m\x07\n\udcff.jsonl"
    path.write_bytes(line())
    assert main(["replay", str(path), *SMALL, "--report", str(path) + ".html"]) == 0
    path.write_bytes(b"\x1b[31m")
    main(["replay", str(path), *SMALL])
    with pytest.raises(SystemExit):
        main(["replay", str(path), *SMALL, "\x1b[31m\udcff"])
    shown = capsys.readouterr()
    text = shown.out + shown.err
    assert text.count(r"\x1b[31m") >= 4
    assert [c for c in text if not c.isprintable() and c != "\n"] == []


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_name_of_any_bytes_can_be_traced_reported_and_written(tmp_path, encoding):
    name = b"\x1b\xff caf\xc3\xa9 \xe9"
    folder = os.fsencode(tmp_path)
    trace = folder + b"/" + name
    with open(trace, "wb") as file:
        file.write(line())
    options = [b"--json", b"-", b"--report", trace + b".html", b"--events", trace + b".events"]
    done = subprocess.run(
        [sys.executable, "-m", "kvgpu", "replay", trace, *SMALL, *options],
        capture_output=True,
        check=False,
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    assert json.loads(done.stdout)["trace"] == name.decode("utf-8", "backslashreplace")
    assert sorted(os.listdir(folder)) == sorted([name, name + b".html", name + b".events"])


def test_an_unknown_backend_in_the_environment_is_bad_input(capsys, monkeypatch):
    monkeypatch.setenv("KVGPU_BACKEND", "nowhere")
    assert main(["replay", *SMALL]) == 2
    assert "'nowhere'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["serve"],
        ["replay", "--nonsense"],
        ["doctor", "--nonsense"],
        ["doctor", "replay"],
        ["replay", "--limit", "many"],
        ["replay", "--clock", "wall"],
        ["replay", "--sweep-blocks", "100,many"],
        ["replay", "--sweep-blocks", ""],
    ],
)
def test_a_command_line_that_cannot_be_read_is_status_2(capsys, arguments):
    with pytest.raises(SystemExit) as leaves:
        main(arguments)
    assert leaves.value.code == 2
    assert "error: " in capsys.readouterr().err
