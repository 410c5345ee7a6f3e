"""Replays on other orders of eviction: the result says which, and on all of them the counts add up."""

import json

import pytest
from support.traces import SMALL_REPLAY, serve

from kvgpu.cli import main
from kvgpu.errors import UnknownNameError
from kvgpu.eviction.names import EVICTIONS
from kvgpu.replay.run import ReplayOptions
from kvgpu.replay.traces.workload import conversations


@pytest.mark.parametrize("behaviour", ["0.23", "0.33"])
@pytest.mark.parametrize("eviction", EVICTIONS)
def test_all_requests_are_served_on_any_order(eviction, behaviour):
    trace = conversations().head(60)
    result, manager = serve(trace, 700, 16, "full+swa:64", behaviour=behaviour, eviction=eviction)
    manager.check()
    assert (result.requests, result.eviction) == (60, eviction)
    assert 0 < result.hit_tokens <= result.ideal_hit_tokens
    assert result.evictions > 0


def test_orders_of_eviction_differ():
    trace = conversations().head(200)
    hits = {name: serve(trace, 2000, 16, eviction=name)[0].hit_tokens for name in EVICTIONS}
    assert len(set(hits.values())) > 3


def test_the_command_says_which_order_it_took(capsys):
    assert main(["replay", *SMALL_REPLAY, "--eviction", "arc", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["eviction"] == "arc"
    assert "eviction arc" in err


def test_an_unknown_order_is_refused():
    with pytest.raises(UnknownNameError, match="known: arc"):
        ReplayOptions(eviction="random")
