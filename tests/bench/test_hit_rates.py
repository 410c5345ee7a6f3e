"""The comparison of hit rates, with kvgpu in the place of vLLM: what it prints, and when it fails."""

import json
from dataclasses import replace

import pytest
from support.benchmarks import bench_module
from support.device.packages import needs

from kvgpu.config.behaviour import BEHAVIOURS
from kvgpu.replay.run import Replayer

pytestmark = needs("tqdm", "msgspec")
CASES = ["full, 600 blocks", "full+swa:64+swa:64, 600 blocks", "full+mamba:align, 600 blocks"]
SMALL = ["--limit", "60", "--num-blocks", "600", "--groups", "full,full+swa:64+swa:64,full+mamba:align"]


class StandIn:
    """A rival whose pool has other blocks."""

    def __init__(self, version, more_blocks=0):
        self.name, self.behaviour, self.more_blocks = "rival", BEHAVIOURS[version], more_blocks

    def run(self, replayer, num_blocks, advance):
        other = Replayer(replayer.trace, replace(replayer.options, backend="reference"))
        result = other.run(num_blocks + self.more_blocks, advance)
        result.backend = self.name
        return result


@pytest.fixture
def compare(monkeypatch, tmp_path, capsys):
    """Runs the command with a rival; gives exit status, rows and what was told."""

    def compare(*rival):
        module = bench_module("peers.hit_rates")
        monkeypatch.setattr(module, "VllmManagers", lambda: StandIn(*rival))
        path = tmp_path / "rows.json"
        command = ["hit_rates.py", *SMALL, "--data", str(tmp_path), "--json", str(path)]
        monkeypatch.setattr("sys.argv", command)
        status = module.main()
        return status, json.loads(path.read_text()), capsys.readouterr().err

    return compare


@pytest.mark.parametrize("version", ["0.23", "0.33"])
def test_both_rates_of_every_kind_of_model_are_given(compare, version):
    status, rows, told = compare(version)
    rates = [row for row in rows if row["metric"] == "hit rate"]
    assert [", ".join(row["case"].split(", ")[:2]) for row in rates] == CASES
    assert all(row["kvgpu"] == row["peer"] > 0 and row["met"] for row in rates)
    assert (status, told.count("equal in all")) == (0, 3)


def test_tokens_hit_and_computed_are_given(compare):
    _, rows, _ = compare("0.33")
    for rate, hit, computed in zip(*[iter(rows)] * 3, strict=True):
        asked = int(rate["case"].split(", ")[-1].split()[0].replace(",", ""))
        assert 1e6 * hit["kvgpu"] / asked == pytest.approx(rate["kvgpu"] / 100)
        assert 1e6 * computed["kvgpu"] >= asked - 1e6 * hit["kvgpu"]


def test_a_rival_that_hits_more_fails_the_comparison(compare):
    status, rows, told = compare("0.33", 5000)
    assert status == 1
    assert [row["met"] for row in rows if row["metric"] == "hit rate"] == [False] * 3
    assert told.count("DIFFERENT at admission") == 3


def test_a_rival_that_hits_less_is_told_and_no_failure(compare):
    status, _, told = compare("0.33", -200)
    assert (status, "DIFFERENT at" in told) == (0, True)
