"""Orders of eviction beside each other, and the bound above them, as the command prints and writes them."""

import json
import os
import subprocess
import sys
import time

import pytest
from support.traces import distinct

from kvgpu.cli import main
from kvgpu.errors import ConfigError, UnknownNameError
from kvgpu.replay.comparison import bounds, compare, names_of, outcome_of
from kvgpu.replay.limits import SchedulerLimits
from kvgpu.replay.run import Replayer, ReplayOptions
from kvgpu.replay.traces.trace import from_requests
from kvgpu.replay.traces.workload import conversations

SIZES = [400, 800]
LIMITED = ["--limit", "60", "--num-blocks", "800", "--sweep-blocks", "400", "--max-running", "8"]


@pytest.fixture(scope="module")
def trace():
    return conversations().head(60)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What a comparison of the command writes: its JSON, and what it prints."""
    path = tmp_path_factory.mktemp("compared") / "run.json"
    words = ["replay", *LIMITED, "--eviction", "lru,s3fifo,belady", "--json", str(path)]
    done = subprocess.run([sys.executable, "-m", "kvgpu", *words], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return json.loads(path.read_text()), done.stdout


def test_outcomes_come_by_pool_and_then_by_order(written):
    found = [(order["num_blocks"], order["eviction"]) for order in written[0]["orders_of_eviction"]]
    assert found == [(size, name) for size in (800, 400) for name in ("lru", "s3fifo", "belady")]


@pytest.mark.parametrize("eviction", ["lru", "s3fifo"])
@pytest.mark.parametrize("size", SIZES)
def test_every_outcome_is_that_of_a_replay_of_its_own(written, trace, size, eviction):
    options = ReplayOptions(num_blocks=size, eviction=eviction, limits=SchedulerLimits(max_running=8))
    alone = outcome_of(Replayer(trace, options, follows_blocks=True).run())
    (found,) = [
        order
        for order in written[0]["orders_of_eviction"]
        if (order["eviction"], order["num_blocks"]) == (eviction, size)
    ]
    assert found == {name: getattr(alone, name) for name in alone.__struct_fields__}
    assert found["evictions"] > 0


def test_the_sweep_is_that_of_the_first_order(written):
    data = written[0]
    (rate,) = [
        order["hit_rate"]
        for order in data["orders_of_eviction"]
        if (order["eviction"], order["num_blocks"]) == ("lru", 400)
    ]
    assert data["sweep"] == [{"num_blocks": 400, "hit_rate": rate}]


def test_no_order_is_above_the_bound(written):
    rates = {(o["eviction"], o["num_blocks"]): o["hit_rate"] for o in written[0]["orders_of_eviction"]}
    assert all(rate <= rates["belady", size] for (_, size), rate in rates.items())


def test_the_terminal_shows_a_row_for_each_outcome(written):
    rows = [line.split() for line in written[1].splitlines()]
    assert [row[:2] for row in rows if row[1:2] and row[1] in ("lru", "s3fifo", "belady")] == [
        [size, name] for size in ("800", "400") for name in ("lru", "s3fifo", "belady")
    ]


def test_the_terminal_says_what_the_figures_say(written):
    assert "Of 2 orders of eviction" in written[1] or "All 2 orders" in written[1]


def test_what_is_known_is_not_replayed_again(trace):
    options = ReplayOptions(num_blocks=400)
    known = [outcome_of(Replayer(trace, options).run())]
    told = []
    assert compare(trace, options, ["lru"], [400], known, told.append) == known
    assert sum(told) == 0


def test_progress_counts_the_requests_of_all_replays(trace):
    told = []
    found = compare(trace, ReplayOptions(), ["lru", "slru"], [400], advance=told.append)
    assert (sum(told), [order.eviction for order in found]) == (2 * len(trace), ["lru", "slru"])


def test_a_replay_that_fails_ends_the_comparison(trace):
    with pytest.raises(UnknownNameError, match="backend"):
        compare(trace, ReplayOptions(backend="wrong"), ["lru", "slru"], [400])


class Fatal:
    """Ends the process that gets it."""

    def __reduce__(self):
        return os._exit, (1,)


def test_a_process_that_the_system_ends_is_a_lack_of_memory():
    with pytest.raises(MemoryError, match="ended a process"):
        compare(Fatal(), ReplayOptions(), ["lru"], [400])


def rate(trace, size, **options):
    (bound,) = bounds(trace, ReplayOptions(block_size=4, **options), [size])
    return bound.hit_rate


TWICE = from_requests("twice", 4, [(0.0, 9, 0, [1, 2, 3]), (1.0, 9, 0, [1, 2, 4])])


def test_the_bound_is_a_share_of_the_prompt_tokens():
    assert rate(TWICE, 10) == 8 / 18


@pytest.mark.parametrize("groups", ["full", "mla"])
def test_the_bound_is_known_for_full_attention(groups):
    assert rate(TWICE, 10, groups=groups) is not None


@pytest.mark.parametrize("groups", ["swa:16", "full+swa:16", "mamba"])
def test_no_bound_is_known_elsewhere(groups):
    assert rate(TWICE, 10, groups=groups) is None


def test_no_bound_is_known_if_requests_are_admitted_in_another_order():
    assert rate(TWICE, 10, limits=SchedulerLimits(policy="longest-prefix")) is None


def test_prompts_that_a_pool_cannot_hold_count_for_nothing():
    large = [(2.0, 40, 0, list(range(1, 11))), (3.0, 40, 0, list(range(1, 11)))]
    rows = [(0.0, 9, 0, [1, 2, 3]), (1.0, 9, 0, [1, 2, 30]), *large]
    trace = from_requests("large", 4, rows)
    served = Replayer(trace, ReplayOptions(10, block_size=4)).run()
    assert served.rejected == 2
    assert rate(trace, 10) == served.hit_rate == 8 / 18
    (small, enough) = bounds(trace, ReplayOptions(block_size=4), [10, 100])
    assert (small.hit_rate, enough.hit_rate) == (8 / 18, (8 + 8 + 36) / 98)


def test_a_pool_too_small_for_everything_has_a_bound_of_nothing():
    assert rate(distinct((40, 1)), 2) == 0.0


@pytest.mark.parametrize(
    ("text", "error"),
    [("lru,lru", "comes twice"), ("belady", "is a bound for others"), ("lru,best", "'best'"), ("lru,", "''")],
)
def test_names_are_checked(text, error):
    with pytest.raises(ConfigError, match=error):
        names_of(text)


def test_bad_names_are_refused_before_the_trace_is_read(capsys):
    assert main(["replay", __file__, "--eviction", "belady"]) == 2
    assert "bound" in capsys.readouterr().err


COMPARISON = """
import os
from pathlib import Path
from kvgpu.replay.comparison import compare
from kvgpu.replay.run import ReplayOptions
from kvgpu.replay.traces.workload import conversations

def show(num_requests):
    if num_requests:
        print(*Path(f"/proc/self/task/{os.getpid()}/children").read_text().split(), flush=True)

compare(conversations(20_000), ReplayOptions(num_blocks=2000), ["lru", "arc"], [1000, 2000], advance=show)
"""


@pytest.mark.skipif(
    not os.path.exists(f"/proc/self/task/{os.getpid()}/children"), reason="the system lists no children"
)
def test_processes_end_with_the_first_one_even_if_that_is_killed():
    with subprocess.Popen([sys.executable, "-c", COMPARISON], stdout=subprocess.PIPE, text=True) as first:
        numbers = first.stdout.readline().split()
        assert numbers
        assert all(os.path.exists(f"/proc/{number}") for number in numbers)
        first.kill()
    deadline = time.monotonic() + 20
    while any(is_running(number) for number in numbers):
        assert time.monotonic() < deadline, "a process goes on"
        time.sleep(0.05)


def is_running(number):
    """Whether a process does anything: nobody may have asked how it ended."""
    try:
        with open(f"/proc/{number}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
