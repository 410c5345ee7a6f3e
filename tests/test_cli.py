"""The command `kvgpu`: its options, its exit status, what it leaves after an error or an interrupt, and odd names."""

import argparse
import json
import os
import signal
import subprocess
import sys
from importlib import import_module

import pytest
from support.traces import SMALL_REPLAY, line

from kvgpu import __version__
from kvgpu.cli import COMMANDS, main

REPLAY_OPTIONS = [
    "--format",
    "--trace-block-size",
    "--skip-bad-lines",
    "--limit",
    "--num-blocks",
    "--behaviour",
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
    "--snapshot",
    "--json",
    "--report",
    "--retention-interval",
    "--events",
    "--eviction",
]
OPTIONS = {
    "replay": REPLAY_OPTIONS,
    "compare": ["--report"],
    "doctor": ["--backend", "--json"],
    "warmup": ["--for-wheel", "--jobs", "--json", "--part"],
}


def run_module(*arguments):
    return subprocess.run([sys.executable, "-m", "kvgpu", *arguments], capture_output=True, text=True, check=False)


def test_as_a_module_in_a_pipe_it_shows_no_progress_bar():
    done = run_module("replay", *SMALL_REPLAY)
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
    assert main(["replay", *SMALL_REPLAY, *options]) == 2
    left = {path: path.read_text() for path in tmp_path.iterdir()}
    assert left == ({} if old is None else dict.fromkeys(paths, old))


def test_no_memory_left_is_one_line_and_status_2(capsys, stops):
    stops(MemoryError("Unable to allocate 1 TiB"))
    assert main(["replay", *SMALL_REPLAY]) == 2
    assert capsys.readouterr().err == ("kvgpu: error: not enough memory: Unable to allocate 1 TiB\n")


def as_compiled_code_tells_it():
    error = SystemError("returned a result with an exception set")
    error.__cause__ = KeyboardInterrupt()
    return error


@pytest.mark.parametrize("make", [KeyboardInterrupt, as_compiled_code_tells_it])
def test_an_interrupt_is_one_line_and_status_130(capsys, stops, make):
    stops(make())
    assert main(["replay", *SMALL_REPLAY]) == 130
    assert capsys.readouterr().err == "kvgpu: interrupted\n"


@pytest.mark.parametrize("error", [ValueError("a bug"), SystemError("a bug"), RecursionError()])
def test_what_nobody_expected_is_not_hidden(stops, error):
    stops(error)
    with pytest.raises(type(error)) as raised:
        main(["replay", *SMALL_REPLAY])
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
    assert main(["replay", str(path), *SMALL_REPLAY, "--report", str(path) + ".html"]) == 0
    path.write_bytes(b"\x1b[31m")
    main(["replay", str(path), *SMALL_REPLAY])
    with pytest.raises(SystemExit):
        main(["replay", str(path), *SMALL_REPLAY, "\x1b[31m\udcff"])
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
        [sys.executable, "-m", "kvgpu", "replay", trace, *SMALL_REPLAY, *options],
        capture_output=True,
        check=False,
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    assert json.loads(done.stdout)["trace"] == name.decode("utf-8", "backslashreplace")
    assert sorted(os.listdir(folder)) == sorted([name, name + b".html", name + b".events"])
