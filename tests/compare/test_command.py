"""`kvgpu compare`: runs side by side."""

import json
from pathlib import Path

import msgspec
import pytest
from support.replays.runs import run

from kvgpu.cli import main


@pytest.fixture
def write(tmp_path):
    def write(name, content=None, **fields):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(msgspec.json.encode(run(**fields)) if content is None else content)
        return str(path)

    return write


@pytest.fixture
def compare(capsys):
    """Runs the command; gives exit status, standard output and standard error."""

    def compare(*arguments):
        status = main(["compare", *map(str, arguments)])
        return (status, *capsys.readouterr())

    return compare


def test_runs_stand_side_by_side_with_what_their_figures_say(compare, write):
    status, out, err = compare(write("old.json"), write("new.json", hit_rate=0.35))
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["old", "new"]
    assert ["hit", "rate", "(prompt", "tokens)", "30.0%", "35.0%"] in [line.split() for line in lines]
    assert lines[-1].startswith("new hits 35.0% of the prompt tokens, 5.0 points more than old")


def test_what_a_replay_writes_can_be_compared(compare, tmp_path, capsys):
    paths = [tmp_path / "small.json", tmp_path / "large.json"]
    for path, size in zip(paths, (200, 3000), strict=True):
        assert main(["replay", "--limit", "60", "--num-blocks", str(size), "--json", str(path)]) == 0
    capsys.readouterr()
    page = tmp_path / "page.html"
    status, out, _ = compare(*paths, "--report", page)
    assert (status, out.splitlines()[-1]) == (0, f"report: {page}")
    rates = [json.loads(path.read_text())["hit_rate"] for path in paths]
    assert f"{rates[1]:.1%}" in out
    assert f"<td>{rates[0]:.1%}</td><td class=other>{rates[1]:.1%}</td>" in page.read_text()
    assert "--num-blocks" in out


def test_runs_of_the_same_name_are_known_by_their_folders(compare, write):
    paths = [write("a/run.json"), write("b/run.json")]
    assert compare(*paths)[1].splitlines()[0].split() == paths


def test_a_run_may_be_compared_with_itself(compare, write):
    path = write("a.json")
    assert f"{path} (2) hits as much as {path} (1)" in compare(path, path)[1]


def test_the_json_of_an_older_version_can_be_compared(compare, write):
    fields = ("trace", "requests", "prompt_tokens", "hit_tokens", "hit_rate", "ideal_hit_rate", "num_blocks")
    old = {name: getattr(run(), name) for name in fields}
    assert compare(write("old.json", msgspec.json.encode(old)), write("new.json"))[0] == 0


BAD = {
    "text": b"hello",
    "nothing": b"",
    "a list": b"[]",
    "other JSON": b'{"a": 1}',
    "a field of another type": b'{"trace": 5}',
    "deep nesting": b"[" * 100_000,
    "bytes": b"\xff\xfe",
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_what_is_no_run_is_refused_by_name(compare, write, content):
    status, out, err = compare(write("good.json"), write("bad.json", content))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "bad.json: not what `kvgpu replay --json` writes" in err


def test_one_run_is_refused(compare, write):
    status, _, err = compare(write("a.json"))
    assert (status, "needs two runs" in err) == (2, True)


def test_a_missing_file_is_an_error(compare, write):
    assert compare(write("a.json"), "/nonexistent/b.json")[0] == 2


def test_a_page_does_not_overwrite_a_run(compare, write):
    path = write("a.json")
    status, _, err = compare(path, write("b.json"), "--report", path)
    assert (status, "would overwrite a run" in err) == (2, True)
    assert json.loads(Path(path).read_text())["trace"] == "chats.jsonl"
