"""Replays with a restart between them: the second begins with what the first had cached, and says what it gains."""

import json

import pytest
from support.traces import SMALL_REPLAY

from kvgpu.cli import main

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def replay(capsys, *options):
    """The result in JSON, and the table."""
    assert main(["replay", *SMALL_REPLAY, "--json", "-", *map(str, options)]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


@pytest.mark.parametrize("options", [(), ("--eviction", "arc"), ("--behaviour", "0.33", "--hash", "sha256_cbor")])
def test_a_replay_begins_with_the_snapshot_of_the_one_before(tmp_path, capsys, options):
    path = tmp_path / "snapshot"
    cold, table = replay(capsys, "--snapshot", path, *options)
    assert cold["snapshot"] == {"loaded_blocks": None, "cold_hit_rate": None}
    assert "snapshot" in table
    warm, table = replay(capsys, "--snapshot", path, *options)
    assert warm["snapshot"]["loaded_blocks"] > 0
    assert warm["snapshot"]["cold_hit_rate"] == cold["hit_rate"]
    assert warm["hit_rate"] > cold["hit_rate"]
    assert warm["computed_tokens"] < cold["computed_tokens"]
    assert "hit rate after a cold start" in table


def test_without_it_nothing_is_said_and_written(tmp_path, capsys):
    result, table = replay(capsys)
    assert "snapshot" not in result
    assert "cold start" not in table


def test_a_snapshot_of_another_pool_is_refused(tmp_path, capsys):
    path = tmp_path / "snapshot"
    replay(capsys, "--snapshot", path)
    old = path.read_bytes()
    assert main(["replay", *SMALL_REPLAY, "--snapshot", str(path), "--block-size", "32"]) == 2
    assert "of another configuration: hash_block_size is 16, not 32" in capsys.readouterr().err
    assert path.read_bytes() == old


@pytest.mark.parametrize("place", ["no/folder", "same"])
def test_a_place_that_cannot_be_written_is_refused_before_the_replay(tmp_path, capsys, monkeypatch, place):
    monkeypatch.setattr("kvgpu.replay.scheduler.ReplayScheduler.run", None)
    path = str(tmp_path / place)
    assert main(["replay", *SMALL_REPLAY, "--snapshot", path, "--events", str(tmp_path / "same")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_snapshot_is_refused(tmp_path, capsys):
    path = tmp_path / "snapshot"
    path.write_text("hello")
    assert main(["replay", *SMALL_REPLAY, "--snapshot", str(path)]) == 2
    assert "no snapshot" in capsys.readouterr().err
    assert path.read_text() == "hello"
