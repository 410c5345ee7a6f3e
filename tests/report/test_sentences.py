"""What the figures say, in sentences."""

import pytest
from support.replays.runs import order, run

from kvgpu.report.document import Snapshot
from kvgpu.report.sentences import differences, sentences


def says(**fields):
    return " ".join(sentences(run(**fields)))


def test_a_pool_is_compared_with_an_endless_cache_and_with_the_bound():
    expected = (
        "200 blocks hit 30.0% of the prompt tokens: 75% of what an endless cache would hit, and 79% of what any order "
        "of eviction could hit with them."
    )
    assert sentences(run())[0] == expected


def test_half_of_the_pool_is_called_so():
    assert sentences(run())[1] == "Half of them (100 blocks) would hit 20.0%, 50% of an endless cache."


def test_without_half_of_the_pool_another_size_is_named():
    orders = [order("lru", 200, 0.3), order("lru", 600, 0.39)]
    assert "600 blocks would hit 39.0%, 98% of an endless cache." in says(orders_of_eviction=orders)


def test_without_a_bound_none_is_named():
    assert "any order" not in says(orders_of_eviction=[order("lru", 200, 0.3), order("belady", 200, None)])


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ({"lru": 0.3, "arc": 0.32}, "Of 2 orders of eviction, arc hits most (32.0%), 2.0 points more than lru."),
        ({"lru": 0.3, "arc": 0.28}, "Of 2 orders of eviction, lru hits most (30.0%), and arc least (28.0%)."),
        ({"lru": 0.3, "arc": 0.3001}, "All 2 orders of eviction hit as much."),
    ],
)
def test_the_best_order_is_named(rates, expected):
    orders = [order(name, 200, rate) for name, rate in rates.items()]
    assert expected in says(orders_of_eviction=orders)


def test_a_single_order_is_not_called_best():
    assert "orders of eviction, " not in says(orders_of_eviction=[order("lru", 200, 0.3)])


def test_losses_are_counted():
    assert "100 tokens (12.5% of those computed) had been computed before" in says()
    assert "Of 9 evicted blocks, 4 were asked for again within a minute." in says()


def test_without_evictions_there_is_no_loss():
    assert says(evictions=0).endswith("Nothing was evicted.")


def test_troubles_are_told_only_if_there_are_some():
    assert "rejected: " not in says()
    assert "2 requests were rejected: the pool is smaller than the prompt." in says(rejected=2)
    assert "1 request was preempted" in says(preemptions=1)


def test_a_trace_whose_prompts_share_nothing_is_said_to_be_one():
    text = says(hit_rate=0.0, ideal_hit_rate=0.0)
    assert text.startswith("200 blocks hit 0.0% of the prompt tokens; no prompt begins like an earlier one.")


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (0.35, "b hits 35.0% of the prompt tokens, 5.0 points more than a (30.0%), and computes 10.0% fewer tokens."),
        (0.25, "b hits 25.0% of the prompt tokens, 5.0 points less than a (30.0%), and computes 10.0% fewer tokens."),
        (0.3, "b hits as much as a, 30.0% of the prompt tokens, and computes 10.0% fewer tokens."),
    ],
)
def test_runs_are_compared_with_the_first(rate, expected):
    assert differences([run(), run(hit_rate=rate, computed_tokens=720)], ["a", "b"]) == [expected]


def test_runs_of_different_requests_are_said_to_be_such():
    assert differences([run(), run(trace="other")], ["a", "b"])[0].startswith("These runs did not serve the same")


def test_runs_of_which_one_rejected_requests_served_the_same():
    runs = [run(), run(requests=19, rejected=1, prompt_tokens=900)]
    assert not differences(runs, ["a", "b"])[0].startswith("These runs")


def test_a_warm_replay_is_told_apart_from_a_cold_start():
    first, second, *_ = sentences(run(hit_rate=0.45, snapshot=Snapshot(7, 0.3)))
    assert first == (
        "With the snapshot 45.0% of the prompt tokens were hit, 15.0 points more than after a cold start. Without it:"
    )
    assert second.startswith("200 blocks hit 30.0% of the prompt tokens: 75% of what an endless cache would hit")


def test_a_replay_that_writes_the_first_snapshot_says_nothing_of_it():
    assert sentences(run(snapshot=Snapshot())) == sentences(run())
