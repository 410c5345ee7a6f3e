"""After a restart a manager that begins with a snapshot gives what the old one would have given."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshot.life import Life, everything
from support.managers import (
    CPU_BACKENDS,
    HEADS,
    admit,
    cached_ids,
    chunked,
    full,
    make_manager,
    make_request,
    mamba,
    per_backend,
    window,
)

from kvgpu.batch.manager import BatchManager
from kvgpu.block_pool import BlockPool
from kvgpu.config.cache_hints import HintLimits
from kvgpu.config.specs import SinkFullAttentionSpec
from kvgpu.eviction.names import EVICTIONS
from kvgpu.eviction.state.arrays import DEADLINES, NODES
from kvgpu.hashing import functions as hashing

MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "full": ([full(4)], {}),
    "full and a window": ([full(4), window(4, 10)], {}),
    "chunks": ([chunked(4, 8)], {}),
    "states": ([full(4), mamba(4)], {}),
    "blocks of several hashes": ([full(8), window(4, 9), mamba(16)], {}),
    "a drafter": ([full(4)], {"use_eagle": True}),
    "sinks": ([SinkFullAttentionSpec(4, **HEADS, sink_len=8)], {}),
    "0.33": ([full(4), window(4, 10)], {"behaviour": "0.33"}),
    "0.33, hits inside blocks": ([full(8), mamba(8, "align")], {"behaviour": "0.33", "hash_block_size": 4}),
}
every_model = pytest.mark.parametrize("model", MODELS)


def made(model: str, **options: Any) -> Any:
    specs, more = MODELS[model]
    return make_manager(*specs, **{"num_blocks": 24 * len(specs), **more, **options})


def restarted(manager: Any, path: Any, model: str, **options: Any) -> Any:
    """Another manager, which begins with what one knows now."""
    manager.save(path)
    other = made(model, **options)
    assert other.load(path) == sum(block.block_hash is not None for block in manager.block_pool.blocks)
    other.check()
    return other


@every_model
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    backends=st.tuples(st.sampled_from(CPU_BACKENDS), st.sampled_from(CPU_BACKENDS)),
    eviction=st.sampled_from(EVICTIONS),
    steps=st.integers(1, 90),
)
def test_two_managers_live_the_same_life_after_a_restart(tmp_path_factory, model, seed, backends, eviction, steps):
    old = made(model, eviction=eviction, backend=backends[0])
    life = Life(old, seed)
    for _ in range(steps):
        life.step()
    before = everything(old)
    path = tmp_path_factory.getbasetemp() / f"{model}.npz"
    new = restarted(old, path, model, eviction=eviction, backend=backends[1])
    assert everything(old) == before
    life.end()
    assert everything(new) == everything(old)
    evicted = [manager.block_pool.allocator.num_evictions for manager in (old, new)]
    lives = [Life(manager, seed + 1, "later") for manager in (old, new)]
    for _ in range(60):
        assert lives[0].step() == lives[1].step()
    old.check()
    new.check()
    assert everything(new) == everything(old)
    counts = [manager.block_pool.allocator.num_evictions for manager in (old, new)]
    assert counts[0] - evicted[0] == counts[1] - evicted[1]


@pytest.mark.parametrize("eviction", EVICTIONS)
def test_a_policy_remembers_what_it_had_learned(tmp_path, eviction):
    old = made("full", eviction=eviction)
    life = Life(old, 5)
    for _ in range(400):
        life.step()
    new = restarted(old, tmp_path / "a", "full", eviction=eviction)
    life.end()
    lives = [Life(manager, 6, "later") for manager in (old, new)]
    for _ in range(400):
        assert lives[0].step() == lives[1].step()


@per_backend
def test_blocks_in_use_are_saved_as_cached_and_most_recently_used(tmp_path, backend):
    old = made("full", backend=backend)
    first, second = (make_request(name, [token] * 12, 4) for name, token in (("first", 1), ("second", 2)))
    for request in (first, second):
        admit(old, request)
    old.free(first)
    held = old.get_block_ids("second")[0]
    new = restarted(old, tmp_path / "a", "full", backend=backend)
    assert new.usage == 0
    assert new.get_computed_blocks(make_request("again", [2] * 13, 4))[0].get_block_ids() == (held,)
    order = new.block_pool.allocate(23).tolist()
    assert order[-3:] == held[::-1]


def test_of_equal_blocks_the_one_that_was_first_stays_first(tmp_path):
    old = made("full")
    requests = [make_request(f"r{i}", 9, 4) for i in range(3)]
    for request in requests:
        old.allocate_slots(request, 9)
    new = restarted(old, tmp_path / "a", "full")
    for manager in (old, new):
        key = requests[0].block_hashes[0]
        entry = manager.block_pool.cached_block_hash_to_block.entry(hashing.BlockHash(key + bytes(4)))
        assert list(entry) == [old.get_block_ids(f"r{i}")[0][0] for i in range(3)]


@per_backend
def test_keys_that_no_record_holds_are_kept(tmp_path, backend):
    def odd(input: Any) -> bytes:
        return hashing.sha256(input)[:20]

    def request(name: str, tokens: int) -> Any:
        return make_request(name, tokens, 4, hash_fn=odd)

    old = made("full", backend=backend)
    for name in ("a", "b"):
        admit(old, request(name, 14))
    old.save(tmp_path / "a", hash_fn=odd)
    new = made("full", backend=backend)
    assert new.load(tmp_path / "a", hash_fn=odd) == len(cached_ids(old)) == len(cached_ids(new))
    hits = [manager.get_computed_blocks(request("again", 14)) for manager in (old, new)]
    assert hits[0][0].get_block_ids() == hits[1][0].get_block_ids()
    assert hits[1][1] == 12
    new.check()


def test_a_manager_that_was_reset_may_begin_again(tmp_path):
    old = made("full", eviction="arc")
    life = Life(old, 1)
    for _ in range(50):
        life.step()
    old.save(tmp_path / "a")
    life.end()
    expected = everything(old)
    for _ in range(50):
        life.step()
    life.end()
    assert old.reset_prefix_cache()
    old.load(tmp_path / "a")
    old.check()
    assert everything(old) == expected


def test_equal_states_are_equal_files(tmp_path):
    manager = made("full and a window")
    admit(manager, make_request("a", 50, 4))
    for name in ("one", "two"):
        manager.save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_what_waiting_requests_would_have_hit_is_spared_no_more(tmp_path):
    old = made("full", eviction="queue-aware")
    for place in (1, 2):
        request = make_request(f"r{place}", [place] * 40, 4)
        admit(old, request)
        old.free(request)
    batch = BatchManager(old, 4, 64)
    batch.match(batch.track([make_request("waits", [1] * 41, 4)]))
    old.block_pool.free_blocks(old.block_pool.get_new_blocks(5))
    new = restarted(old, tmp_path / "a", "full", eviction="queue-aware")
    cold = {block.block_id for block in new.block_pool.blocks if block.block_hash is None and not block.is_null}
    assert set(new.block_pool.allocate(len(cold) + 10).tolist()) > cold
    assert new.get_computed_blocks(make_request("again", [1] * 41, 4))[1] == 0
    assert new.get_computed_blocks(make_request("again", [2] * 41, 4))[1] > 0


def test_an_unused_manager_may_be_saved(tmp_path):
    new = restarted(made("full"), tmp_path / "a", "full")
    assert everything(new) == everything(made("full"))


def test_a_manager_without_caching_has_a_snapshot_of_no_block(tmp_path):
    old = made("full", enable_caching=False)
    admit(old, make_request("a", 20, 4))
    old.save(tmp_path / "a")
    assert made("full", enable_caching=False).load(tmp_path / "a") == 0


def test_long_prompts_are_found_as_fast_as_before(tmp_path):
    """Blocks of one prompt lead to each other after a restart, too."""
    old = make_manager(full(4), num_blocks=400)
    request = make_request("a", 1200, 4)
    admit(old, request)
    old.save(tmp_path / "a")
    new = make_manager(full(4), num_blocks=400)
    new.load(tmp_path / "a")
    ids = old.get_block_ids("a")[0]
    assert new.block_pool.state.records["successor"][ids[:-1]].tolist() == ids[1:]


def test_a_pool_without_rows_for_aliases_has_none():
    assert not len(BlockPool(8, True, 4).state.aliases.owners)


class Clock:
    now = 0.0

    def __call__(self):
        self.now += 0.01
        return self.now


def left(manager):
    """Nanoseconds that each block has by the clock; the largest number without a deadline."""
    deadlines = manager.block_pool.eviction.array(DEADLINES)
    until = np.maximum(deadlines - int(manager.hints.limits.clock.now * 10**9), 0)
    return np.where(deadlines == 0, 1 << 62, until).tolist()


@pytest.mark.parametrize("seed", range(6))
def test_what_requests_said_of_blocks_survives(tmp_path, seed):
    limits = [HintLimits({"a": 0.2, "b": 0.1}, clock=Clock()) for _ in range(2)]
    options = {"num_blocks": 40, "max_model_len": 100, "eviction": "slru"}
    old = made("full", hints=limits[0], **options)
    life = Life(old, seed)
    for _ in range(300):
        life.step()
    while not life.is_rich():
        life.step()
    life.end()
    old.save(tmp_path / "a")
    new = made("full", hints=limits[1], **options)
    limits[1].clock.now = 500_000.0  # as after days on another machine
    new.load(tmp_path / "a")
    expected, found = (manager.block_pool.eviction for manager in (old, new))
    for name in ("level", "tenant", "expired"):
        assert found.array(NODES)[name].tolist() == expected.array(NODES)[name].tolist()
    assert left(new) == left(old)
    assert len(set(left(new))) > 1
    limits[0].clock.now = limits[1].clock.now = 1e6
    for each in (old, new):
        each.hints.begin_batch()
    assert new.block_pool.allocate(39).tolist() == old.block_pool.allocate(39).tolist()
