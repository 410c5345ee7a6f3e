"""Revisions beside each other: they are taken from git, take turns, and the new one is held against the old."""

import subprocess

import pytest
from support.benchmarks import bench_module

BENCHMARK = """
import json, sys
sys.path.insert(0, {tree!r})
from cost import COST
if "--help" in sys.argv:
    sys.exit(print("--known N, --json FILE"))
assert "--unknown" not in sys.argv and "--known" in sys.argv
rows = [dict(metric="step", case="all", unit=unit, kvgpu=COST * scale) for unit, scale in {units}]
open(sys.argv[sys.argv.index("--json") + 1], "w").write(json.dumps(rows))
"""
UNITS = [("us", 10), ("us/call", 1), ("%", 1)]


@pytest.fixture
def revisions(monkeypatch, tmp_path, capsys):
    """Runs the command where revisions cost what is given; gives exit status, rows by unit and peer, and errors."""
    module = bench_module("peers.revisions")

    def git(*words):
        name = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *name, *words], check=True, capture_output=True)

    def run(costs, *more, named=("HEAD~1", "HEAD~2")):
        (tmp_path / "bench").mkdir()
        (tmp_path / "setup.py").write_text("")
        (tmp_path / "bench" / "work.py").write_text(BENCHMARK.format(tree=".", units=UNITS))
        git("init", "-q")
        for cost in costs:
            (tmp_path / "cost.py").write_text(f"COST = {cost}\n")
            git("add", "-A", "--", "bench", "setup.py", "cost.py")
            git("commit", "-q", "--allow-empty", "-m", "cost")
        made = module.made
        monkeypatch.setattr(module, "made", lambda options: made(options, tmp_path))
        data = ["--data", str(tmp_path / "data"), "--pairs", "2", "--benchmarks", "work --unknown 5 --known 6"]
        monkeypatch.setattr("sys.argv", ["revisions.py", *named, *data, *more])
        monkeypatch.setattr(module, "finish", finish := Finish(module.finish))
        status = module.main()
        return status, {(row.unit, row.peer_name): row for row in finish.rows}, capsys.readouterr().err

    return run


class Finish:
    """Keeps the rows that are finished."""

    def __init__(self, finish):
        self.finish, self.rows = finish, []

    def __call__(self, name, made, options):
        def kept():
            for row in made:
                self.rows.append(row)
                yield row

        return self.finish(name, kept(), options)


def test_what_costs_as_much_meets_the_goal(revisions):
    status, rows, _ = revisions([1, 1, 1])
    assert status == 0
    assert len(rows) == 4
    assert all(row.ratio == 1 and row.met in (True, None) for row in rows.values())


def test_what_costs_more_misses_it(revisions):
    status, rows, _ = revisions([1, 1, 1.04])
    times = [row for (unit, _), row in rows.items() if unit == "us"]
    assert status == 1
    assert [row.met for row in times] == [False, None]
    assert times[0].ratio == pytest.approx(1 / 1.04)


@pytest.mark.parametrize(("cost", "met"), [(1.09, True), (1.11, False)])
def test_a_short_call_may_take_a_tenth_of_a_microsecond_more(revisions, cost, met):
    _, rows, _ = revisions([1, 1, cost])
    assert next(row for (unit, _), row in rows.items() if unit == "us/call").met is met


def test_earlier_revisions_are_shown_without_a_goal(revisions):
    _, rows, _ = revisions([2, 1, 1])
    older = list(rows.values())[1]
    assert (older.ratio, older.met) == (2, None)


def test_a_revision_that_git_does_not_know_is_an_error(revisions):
    status, _, told = revisions([1], named=("nothing",))
    assert status == 2
    assert "revision nothing cannot be made" in told


def test_a_benchmark_that_a_revision_lacks_is_an_error(revisions):
    status, rows, told = revisions([1, 1, 1], "--benchmarks", "play")
    assert (status, rows) == (2, {})
    assert "has no benchmark play" in told


def test_an_option_without_a_value_is_refused(revisions):
    with pytest.raises(SystemExit):
        revisions([1, 1, 1], "--benchmarks", "work --known")


def test_a_benchmark_that_fails_is_an_error(revisions):
    status, rows, told = revisions([1, 1, "None"])
    assert (status, rows) == (2, {})
    assert "work of" in told


def test_a_row_of_several_steps_has_as_many_calls():
    module = bench_module("peers.revisions")
    row = module.row_of(("decode", "8 running, 16 steps", "us/request"), "old", [4.5], [3.0])
    assert module.held_against(row, [4.5], [3.0], [3.0]).met
    assert not module.held_against(row, [4.7], [3.0], [3.0]).met


def test_noise_of_the_old_revision_beside_itself_widens_the_goal():
    module = bench_module("peers.revisions")
    row = module.row_of(("step", "all", "us"), "old", [10.5] * 5, [10] * 5)
    assert module.held_against(row, [10.5] * 5, [10] * 5, [10, 11, 11, 11, 9]).met
    assert not module.held_against(row, [10.5] * 5, [10] * 5, [10] * 5).met
