"""The command `kvgpu`: options, exit status, and one line for bad input."""

import argparse
import subprocess
import sys
from importlib import import_module

import pytest
from traces import line

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
    return subprocess.run(
        [sys.executable, "-m", "kvgpu", *arguments], capture_output=True, text=True, check=False
    )


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
}


@pytest.mark.parametrize("arguments", BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_status_2(capsys, tmp_path, arguments):
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(line() + b"\nnonsense\n")
    filled = [part.format(tmp=tmp_path, bad=bad) for part in arguments]
    status = main(["replay", "--limit", "2", "--num-blocks", "500", *filled])
    err = capsys.readouterr().err
    assert (status, err.count("\n"), err[:14]) == (2, 1, "kvgpu: error: ")


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
