"""A checked manager answers as vLLM's does, notices a difference, and says with which call it came."""

import logging

import pytest
from in_vllm.oracle import require_vllm

require_vllm()

from in_vllm import engines
from in_vllm.engines import SIZE, full

from kvgpu.vllm.manager import make_manager

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def manager(monkeypatch):
    monkeypatch.setenv("KVGPU_VLLM", "check")
    return make_manager(
        engines.config_of(full()), max_model_len=1000, scheduler_block_size=SIZE, hash_block_size=SIZE, log_stats=True
    )


@pytest.fixture
def request_of_three():
    return engines.make_request("a", list(range(3 * SIZE)))


def test_equal_answers_are_counted(manager, request_of_three):
    blocks, hits = manager.get_computed_blocks(request_of_three)
    assert manager.allocate_slots(request_of_three, 3 * SIZE, hits, blocks).get_block_ids() == ([1, 2, 3],)
    manager.free(request_of_three)
    blocks, hits = manager.get_computed_blocks(request_of_three)
    assert hits == 2 * SIZE
    assert manager.allocate_slots(request_of_three, SIZE, hits, blocks) is not None
    assert (manager.num_compared, manager.difference) == (5, None)


def test_a_difference_is_told_once_and_vllm_serves_on(manager, request_of_three, caplog):
    manager.ours.block_pool.get_new_blocks(1)
    with caplog.at_level(logging.ERROR, "kvgpu"):
        assert manager.allocate_slots(request_of_three, 3 * SIZE).get_block_ids() == ([1, 2, 3],)
        manager.free(request_of_three)
    (message,) = caplog.messages
    assert "allocate_slots(request 'a' with 48 tokens, 0 computed, 3 hashes, 48)" in message
    assert "vLLM answered ([1, 2, 3],), kvgpu ([2, 3, 4],)" in message
    assert manager.ours is None


def test_an_error_of_kvgpu_is_a_difference(manager, request_of_three, monkeypatch):
    def fail(*args):
        raise RuntimeError("broken")

    monkeypatch.setattr(type(manager.ours), "free", fail)
    manager.free(request_of_three)
    assert "broken" in manager.difference


def test_an_error_of_vllm_is_raised_and_ends_the_comparison(manager, request_of_three):
    with pytest.raises(ValueError, match="num_new_tokens"):
        manager.allocate_slots(request_of_three, 0)
    assert (manager.ours, manager.difference) == (None, None)


def test_a_connector_that_has_the_pool_is_named(manager, request_of_three, caplog):
    manager.block_pool.touch([manager.block_pool.blocks[1]])
    with caplog.at_level(logging.ERROR, "kvgpu"):
        manager.allocate_slots(request_of_three, 3 * SIZE)
    assert "a connector was given vLLM's pool" in caplog.text


@pytest.mark.parametrize("copied", [False, True])
def test_copies_of_blocks_end_the_comparison(manager, monkeypatch, copied):
    answer = ([(1, 2)], ["source", "copy"]) if copied else ([], [])
    monkeypatch.setattr(manager.theirs, "take_kv_cache_block_copies", lambda: answer, raising=False)
    assert manager.take_kv_cache_block_copies() == answer
    assert (manager.ours is None, manager.difference) == (copied, None)
