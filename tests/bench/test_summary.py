"""What the GPU's benchmark prints in the end: in a few lines what went wrong, and last the goals."""

import pytest
from support.benchmarks import bench_module


@pytest.fixture
def gpu():
    return bench_module("gpu")


def rows(gpu, count, limit):
    return [gpu.Row("find", f"case {number}", "us", float(number)).stay_below(limit) for number in range(count)]


def outcomes(gpu, **named):
    module = bench_module("on_gpu.outcome")
    return [module.Outcome(name.replace("_", " "), *how) for name, how in named.items()]


def test_goals_come_last_with_what_became_of_them(gpu):
    without = gpu.Row("find", "without a goal", "us", 1.0)
    ran = outcomes(gpu, finds=("done", 1.0), tests=("passed", 2.0), more_tests=("passed", 2.0))
    lines = gpu.summary([without, *rows(gpu, 3, 1)], ran)
    assert lines[0] == "done: 1, passed: 2"
    assert lines[1] == "goals: 2 met, 1 MISSED; 4 rows in all"
    assert [line.split()[-1] for line in lines[-3:]] == ["met", "met", "MISSED"]
    assert not [line for line in lines if "without a goal" in line]


def test_what_did_not_run_is_named_once_for_each_reason(gpu):
    late = "the deadline of 480 s was near"
    ran = outcomes(
        gpu,
        profile=("left out", 0.0, "ncu is not installed"),
        more_finds=("cut off", 0.0, late),
        updates=("failed", 3.0, "OutOfMemoryError: CUDA out of memory\nsecond line"),
        calls=("cut off", 0.0, late),
    )
    assert gpu.summary([], ran)[1:4] == [
        "left out, ncu is not installed: profile",
        f"cut off, {late}: more finds; calls",
        "failed, updates: OutOfMemoryError: CUDA out of memory",
    ]


@pytest.mark.parametrize("goals", [0, 5, 40, 200])
@pytest.mark.parametrize("failures", [0, 12, 29, 30, 200])
def test_it_has_at_most_sixty_lines_whatever_happens(gpu, goals, failures):
    failed = outcomes(gpu, **{f"block_{number}": ("failed", 1.0, "RuntimeError: no") for number in range(failures)})
    lines = gpu.summary(rows(gpu, goals, 7), failed)
    assert len(lines) <= gpu.MOST_LINES == 60
    begin = next(i for i, line in enumerate(lines) if line.startswith("goals:"))
    shown = sum(line.startswith("find, case") for line in lines[begin:])
    assert shown == goals or f"... and {goals - shown} more: gpu-summary.txt" == lines[-1]
    assert shown >= min(goals, 20)
