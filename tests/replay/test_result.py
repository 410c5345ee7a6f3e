"""What a replay measured, as rates and as plain data."""

import json

import pytest
from support.traces import distinct, serve

from kvgpu.replay.result import PHASES, ReplayResult


def result(**fields):
    return ReplayResult(num_blocks=100, **fields)


@pytest.mark.parametrize(("hits", "prompt", "rate"), [(30, 120, 0.25), (0, 10, 0.0), (0, 0, 0.0)])
@pytest.mark.parametrize("kind", ["hit", "ideal_hit"])
def test_rates_are_hits_per_prompt_token(kind, hits, prompt, rate):
    made = result(prompt_tokens=prompt, **{f"{kind}_tokens": hits})
    assert getattr(made, f"{kind}_rate") == rate


def test_microseconds_are_per_block_of_each_phase():
    made = result()
    made.seconds["hash"], made.blocks_of["hash"] = 0.5, 1000
    assert made.us_per_block["hash"] == pytest.approx(500.0)


def test_a_phase_without_blocks_has_no_time_per_block():
    assert result().us_per_block == dict.fromkeys(PHASES)


def test_time_is_added_to_its_phase_only():
    made = result()
    with made.timed("free"):
        sum(range(1000))
    assert made.seconds["free"] > 0
    assert [made.seconds[phase] for phase in PHASES if phase != "free"] == [0.0] * (len(PHASES) - 1)


def test_time_counts_also_when_the_work_fails():
    made = result()
    with pytest.raises(ZeroDivisionError), made.timed("hash"):
        1 / 0  # noqa: B018
    assert made.seconds["hash"] > 0


def test_results_do_not_share_their_counts():
    first, second = result(), result()
    first.seconds["hash"] = first.blocks_of["hash"] = 1
    first.samples.append((1, 1, 0.0, 0.0))
    assert (second.seconds["hash"], second.blocks_of["hash"], second.samples) == (0, 0, [])


def test_plain_data_survives_json():
    data = serve(distinct((8, 2)))[0].as_dict()
    assert json.loads(json.dumps(data)) == data


def test_plain_data_names_the_counts():
    data = result(requests=3, prompt_tokens=10, hit_tokens=5, prompt_blocks=2).as_dict()
    expected = {"requests": 3, "prompt_tokens": 10, "hit_tokens": 5, "hit_rate": 0.5, "blocks": 2}
    assert {name: data[name] for name in expected} == expected


def test_waiting_times_are_summed_up_on_the_virtual_clock():
    waits = [40.0, 0.0, 10.0, 30.0, 20.0]
    made = result(virtual_seconds=1.0, samples=[(1, 0, 0.0, wait) for wait in waits])
    assert made.as_dict()["waiting_ms"] == {"mean": 20.0, "p50": 20.0, "p99": 40.0}


@pytest.mark.parametrize("fields", [{}, {"samples": [(1, 0, 0.0, 5.0)]}, {"virtual_seconds": 1.0}])
def test_without_the_clock_or_requests_there_are_no_waiting_times(fields):
    assert result(**fields).as_dict()["waiting_ms"] is None


def test_blocks_are_counted_by_phase():
    made, _ = serve(distinct((10, 3), (8, 1)), block_size=4)
    # Prompts of 2 full blocks each, and one that 10 + 2 tokens fill.
    assert made.blocks_of["hash"] == 5
    assert made.blocks_of["lookup"] == 9 // 4 + 7 // 4
    assert made.blocks_of["allocate"] == made.blocks_of["free"] == 3 + 2
    assert made.blocks_of["decode"] == 2


def test_prompt_blocks_are_the_full_ones():
    made, _ = serve(distinct((10, 3), (8, 1), (3, 0)), block_size=4)
    assert made.prompt_blocks == 4


def test_the_backend_and_the_size_of_a_block_are_those_of_the_pool():
    made, manager = serve(distinct((8, 1)), num_blocks=50)
    pool = manager.block_pool
    assert made.backend == pool.index.name
    assert made.pool_bytes_per_block == pool.nbytes / 50 > 0


def test_evictions_are_blocks_that_lost_their_hash():
    made, _ = serve(distinct((16, 0), (16, 0)), num_blocks=6, max_running=1)
    # 5 blocks for 4 + 4: the first request leaves 4 cached, one free block has no hash.
    assert made.evictions == 3
