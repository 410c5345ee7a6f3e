"""What benchmarks share: rows in CSV files, ratios, goals, tables."""

import csv
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture(scope="module")
def harness():
    spec = importlib.util.spec_from_file_location("bench_harness", BENCH / "harness.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "figures.csv"


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def cells(line):
    """Cells of one line of a table, without empty ones."""
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def row(harness, metric="lookup", kvgpu=10.0, **fields):
    return harness.Row(metric, fields.pop("case", "full"), "ns/block", kvgpu, **fields)


def test_rows_are_written_with_the_machine_and_the_versions(harness, path):
    harness.save([row(harness, peer=25.0, peer_name="other", low=9.0, high=11.0)], path)
    (written,) = read(path)
    expected = {
        "metric": "lookup",
        "case": "full",
        "peer_name": "other",
        "unit": "ns/block",
        "kvgpu": "10",
        "low": "9",
        "high": "11",
        "peer": "25",
        "ratio": "2.5",
    }
    assert {name: written[name] for name in expected} == expected
    assert all(written[name] for name in ("machine", "versions", "revision", "date"))


def test_the_columns_are_always_the_same(harness, path):
    harness.save([row(harness)], path)
    assert path.read_text().splitlines()[0].split(",") == harness.FIELDS


@pytest.mark.parametrize("name", ["low", "high", "peer", "ratio"])
def test_a_figure_that_is_missing_is_an_empty_cell(harness, path, name):
    harness.save([row(harness)], path)
    assert read(path)[0][name] == ""


def test_a_zero_is_written_as_such(harness, path):
    harness.save([row(harness, kvgpu=0.0, low=0.0)], path)
    assert (read(path)[0]["kvgpu"], read(path)[0]["low"]) == ("0", "0")


def test_a_row_of_the_same_key_is_replaced_in_its_place(harness, path):
    harness.save([row(harness, "a"), row(harness, "b"), row(harness, "c")], path)
    harness.save([row(harness, "b", 77.0)], path)
    assert [(r["metric"], r["kvgpu"]) for r in read(path)] == [("a", "10"), ("b", "77"), ("c", "10")]


@pytest.mark.parametrize("other", [{"metric": "free"}, {"case": "hybrid"}, {"peer_name": "other"}])
def test_a_row_of_another_key_is_added(harness, path, other):
    harness.save([row(harness)], path)
    harness.save([row(harness, **other)], path)
    assert len(read(path)) == 2


def test_rows_that_are_kept_keep_everything(harness, path, monkeypatch):
    harness.save([row(harness, "a", peer=20.0)], path)
    before = read(path)
    monkeypatch.setattr(harness, "machine", lambda: "another machine")
    harness.save([row(harness, "b")], path)
    assert read(path)[:1] == before
    assert read(path)[1]["machine"] == "another machine"


def test_rows_say_which_command_made_them_without_paths(harness, path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "/a/trace.jsonl", "--data", "/b", "--rounds", "3"])
    harness.save([row(harness)], path)
    assert read(path)[0]["command"] == "python bench/figures.py trace.jsonl --rounds 3"


def test_the_revision_does_not_depend_on_the_directory_of_the_caller(harness, tmp_path, monkeypatch):
    expected = harness.revision()
    monkeypatch.chdir(tmp_path)
    assert harness.revision() == expected


def test_without_git_the_revision_is_unknown(harness, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert harness.revision() == "unknown"


def test_rows_of_another_gpu_are_kept(harness, path):
    harness.save([row(harness, device="H100", checked="a check")], path)
    harness.save([row(harness, kvgpu=5.0, device="H200"), row(harness, "other", device="H200")], path)
    harness.save([row(harness, kvgpu=4.0, device="H200")], path)
    found = [(r["device"], r["metric"], r["kvgpu"]) for r in read(path)]
    assert found == [("H100", "lookup", "10"), ("H200", "lookup", "4"), ("H200", "other", "10")]
    assert read(path)[0]["checked"] == "a check"


def test_packages_that_are_missing_are_left_out(harness, monkeypatch):
    monkeypatch.setattr(harness, "PACKAGES", ("numpy", "no-such-package"))
    names = [part.split()[0] for part in harness.versions().split(", ")]
    assert names == ["python", "numpy"]


@pytest.mark.parametrize(("kvgpu", "peer", "ratio"), [(10.0, 25.0, 2.5), (20.0, 5.0, 0.25)])
def test_the_ratio_is_how_much_faster_kvgpu_is(harness, kvgpu, peer, ratio):
    assert row(harness, kvgpu=kvgpu, peer=peer).ratio == ratio


def test_without_a_peer_there_is_no_ratio(harness):
    assert row(harness).ratio is None


@pytest.mark.parametrize(("kvgpu", "met"), [(2.0, True), (2.5, True), (2.6, False)])
def test_a_ratio_meets_its_goal_from_its_value_on(harness, kvgpu, met):
    held = row(harness, kvgpu=kvgpu, peer=25.0).hold_against(10)
    assert (held.goal, held.met) == (">= 10x", met)


def test_without_a_peer_no_goal_is_met_or_missed(harness):
    held = row(harness).hold_against(10)
    assert (held.goal, held.met) == ("", None)


@pytest.mark.parametrize(("kvgpu", "met"), [(9.0, True), (10.0, True), (10.1, False)])
def test_a_figure_meets_its_goal_up_to_its_value(harness, kvgpu, met):
    held = row(harness, kvgpu=kvgpu).stay_below(10)
    assert (held.goal, held.met) == ("<= 10 ns/block", met)


def test_rounds_become_medians_with_their_spread(harness):
    made = harness.compared("m", "c", "ns", [1, 2, 3, 4, 5, 6], [6, 12, 9, 24, 20, 30], "other")
    assert (made.low, made.kvgpu, made.high) == (2, 3.5, 5)
    assert (made.peer_low, made.peer, made.peer_high) == (9, 16, 24)
    # Round by round: 6, 6, 3, 6, 4, 5.
    assert (made.ratio_low, made.ratio, made.ratio_high) == (4, 5.5, 6)


def test_without_rounds_of_a_peer_its_name_is_left_out(harness):
    made = harness.compared("m", "c", "ns", [1, 2, 3], (), "other", goal=5)
    assert (made.peer, made.peer_name, made.met) == (None, "", None)


def test_beside_a_limit_there_is_no_goal(harness):
    made = harness.beside_limit(row(harness, kvgpu=4.0, peer=9.0).hold_against(2), 2.0, "a line")
    assert (made.kvgpu, made.peer, made.peer_name, made.ratio) == (4.0, 2.0, "limit: a line", 0.5)
    assert made.met is None


@pytest.mark.parametrize(("met", "mark"), [(True, "met"), (False, "MISSED"), (None, ">= 5x")])
def test_the_table_marks_goals(harness, met, mark):
    text = harness.table([row(harness, goal=">= 5x", met=met)])
    assert cells(text.splitlines()[1])[-1] == mark


def test_the_table_marks_only_the_goals_that_are_missed(harness):
    rows = [row(harness, "good", goal=">= 1x", met=True), row(harness, "bad", goal="x", met=False)]
    lines = harness.table(rows).splitlines()
    assert ["MISSED" in line for line in lines] == [False, False, True]


def test_the_table_shows_both_figures_and_the_ratio(harness):
    text = harness.table([row(harness, peer=25.0, peer_name="other")])
    assert cells(text.splitlines()[1]) == ["lookup, full", "10 ns/block", "25 other", "2.50x"]


def test_the_columns_of_the_table_are_aligned(harness):
    rows = [row(harness, "a", peer=1.0), row(harness, "a long name", peer=1.0, kvgpu=12345.0)]
    lines = harness.table(rows).splitlines()
    assert lines[0].index("kvgpu") == lines[1].index("10 ns") == lines[2].index("1.234e+04 ns")


def test_the_figures_in_the_repository_have_the_columns_of_the_harness(harness):
    for file in BENCH.glob("data/*.csv"):
        more = harness.DEVICE_FIELDS if file.stem == "gpu" else []
        assert file.read_text().splitlines()[0].split(",") == [*harness.FIELDS, *more]


@pytest.mark.parametrize(("met", "status"), [(None, 0), (True, 0), (False, 1)])
@pytest.mark.parametrize("kind", [lambda x: x, lambda x: None if x is None else np.bool_(x)])
def test_a_missed_goal_is_the_exit_status(harness, tmp_path, capsys, met, status, kind):
    missed = harness.Row("m", "c", "ns", np.float64(2.5), 5.0, "peer", met=kind(met))
    arguments = ["--json", str(tmp_path / "rows.json"), "--data", str(tmp_path)]
    options = harness.benchmark_options("A benchmark.").parse_args(arguments)
    assert harness.finish("name", [missed], options) == status
    assert json.loads((tmp_path / "rows.json").read_text())[0]["kvgpu"] == 2.5
    assert (tmp_path / "name.csv").exists()
    assert "peer" in capsys.readouterr().out


def test_json_on_standard_output_is_alone_there(harness, tmp_path, capsys):
    options = harness.benchmark_options("A benchmark.").parse_args(["--json", "-", "--data", str(tmp_path)])
    harness.finish("name", [row(harness)], options)
    shown = capsys.readouterr()
    assert json.loads(shown.out)[0]["metric"] == "lookup"
    assert "lookup, full" in shown.err
