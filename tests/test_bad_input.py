"""Bad input to the command `kvgpu`: it prints one line, exits with status 2, and replays and writes nothing."""

import pytest
from support.traces import SMALL_REPLAY, line

from kvgpu.cli import main

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


def test_an_unknown_backend_in_the_environment_is_bad_input(capsys, monkeypatch):
    monkeypatch.setenv("KVGPU_BACKEND", "nowhere")
    assert main(["replay", *SMALL_REPLAY]) == 2
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
