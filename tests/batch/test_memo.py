"""What lookups remember of tracked requests: never another answer, and no block looked at twice without need."""

import sys

import numpy as np
import pytest
from support.batches import requests_of
from support.managers import admit, chunked, full, make_manager, make_request, mamba, window

from kvgpu.batch.manager import BatchManager
from kvgpu.batch.queries import BatchQueries
from kvgpu.blocks.index_meta import REGIONS, make_meta, region_of
from kvgpu.compiled.jit import jit, python_of
from kvgpu.hashing.functions import BlockHash
from kvgpu.hashing.map_keys import make_block_hash_with_group_id
from kvgpu.index.host.memo import KNOWN

MODELS = {
    "full": ((full(4),), {}),
    "full_eagle": ((full(4),), {"use_eagle": True}),
    "two_full": ((full(4), window(4, 8), full(4)), {}),
    "sizes": ((full(4), full(8), full(16)), {}),
    "window": ((window(4, 12),), {}),
    "chunked": ((chunked(4, 16),), {}),
    "hybrid": ((full(8), window(4, 8), window(4, 8)), {}),
    "hybrid_eagle": ((full(4), window(4, 12)), {"eagle_groups": [0]}),
    "hybrid_mamba": ((full(4), mamba(8)), {}),
    "events": ((full(4),), {"enable_kv_cache_events": True}),
}


def fresh_hits(manager, requests):
    """What a lookup finds that knows nothing."""
    queries = BatchQueries(manager, len(requests), 4000)
    hits = queries.match(queries.track(requests))
    return hits.num_tokens.tolist(), hits.lengths.tolist()


@pytest.mark.parametrize("num_blocks", [60, 300, 1500], ids=["one a region", "some", "many"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_remembered_is_what_a_fresh_lookup_finds(model, num_blocks, seed):
    rng = np.random.default_rng(seed)
    specs, options = MODELS[model]
    manager = make_manager(*specs, num_blocks=num_blocks, **options)
    size = manager.coordinator.hash_block_size
    documents = [rng.integers(0, 50, 120).tolist() for _ in range(4)]

    def tokens():
        return documents[rng.integers(4)][: rng.integers(1, 120)] + rng.integers(0, 50, 9).tolist()

    waiting = [make_request(f"wait{i}", tokens(), size) for i in range(10)]
    queries = BatchQueries(manager, 16, 4000)
    rows = queries.track(waiting)
    running = []
    for step in range(60):
        manager.new_step_starts()
        request = make_request(f"run{step}", tokens(), size)
        if admit(manager, request) is not None:
            running.append(request)
        while running and (rng.random() < 0.5 or len(running) > 3):
            manager.free(running.pop(rng.integers(len(running))))
        draw = rng.random()
        if draw < 0.05:
            manager.evict_blocks({int(i) for i in rng.integers(1, num_blocks, num_blocks // 10)})
        elif draw < 0.08:
            while running:
                manager.free(running.pop())
            assert manager.reset_prefix_cache()
        elif draw < 0.15:
            place = rng.integers(len(waiting))
            waiting[place].append_output_token_ids(rng.integers(0, 50, 5).tolist())
            queries.extend(rows[place : place + 1])
        elif draw < 0.25:
            place = rng.integers(len(waiting))
            queries.untrack(rows[place : place + 1])
            waiting[place] = make_request(f"wait{step + 100}", tokens(), size)
            rows[place] = queries.track([waiting[place]])[0]
        asked = rng.permutation(len(rows))[: rng.integers(1, len(rows) + 1)]
        hits = queries.match(rows[asked])
        expected = fresh_hits(manager, [waiting[i] for i in asked])
        assert (hits.num_tokens.tolist(), hits.lengths.tolist()) == expected
    manager.check()


@pytest.fixture
def asked():
    """Queries with a request of nine blocks, all cached, that was looked up; and its manager."""
    manager = make_manager(full(4), num_blocks=1000)
    manager.free(admitted(manager, "first", range(40)))
    queries = BatchQueries(manager, 4, 100)
    queries.track([make_request("again", list(range(40)), 4)])
    assert queries.match().num_tokens.tolist() == [36]
    return queries


def admitted(manager, name, tokens):
    request = make_request(name, list(tokens), 4)
    assert admit(manager, request) is not None
    return request


def spoil(queries):
    """Change the hashes of the row: whoever looks at a block misses."""
    for row in queries.rows.all().tolist():
        words = queries.rows.hashes.of(row).keys
        words[:9] ^= 1


def test_blocks_that_are_known_are_not_looked_at_again(asked):
    spoil(asked)
    assert asked.match().num_tokens.tolist() == [36]
    asked.rows.forget()
    assert asked.match().num_tokens.tolist() == [0]


def test_they_are_after_one_of_them_has_left(asked):
    asked.manager.evict_blocks({9})
    assert asked.match().num_tokens.tolist() == [32]


def test_they_are_not_after_a_block_of_another_region_has_left(asked):
    manager = asked.manager
    admitted(manager, "other", [7] * 200)
    meta = manager.block_pool.state.meta
    region = jit(python_of(region_of))
    assert region(meta, 40) != region(meta, 9)
    manager.evict_blocks({40})
    spoil(asked)
    assert asked.match().num_tokens.tolist() == [36]
    manager.evict_blocks({9})
    assert asked.match().num_tokens.tolist() == [0]


def test_a_block_that_gets_another_hash_by_hand_is_noticed(asked):
    """Even so: its old key is still in the index, and names a block of another one."""
    pool = asked.manager.block_pool
    block = pool.blocks[5]
    block.reset_hash()
    pool.cache_full_blocks(make_request("other", [9] * 4, 4), [block], 0, 1, 4, 0)
    assert asked.match().num_tokens.tolist() == fresh_hits(asked.manager, requests_of(asked))[0]


@pytest.mark.parametrize("widths", [(32,), (20, 32), (20,)])
def test_a_hash_that_is_set_by_hand_is_noticed(asked, widths):
    block = asked.manager.block_pool.blocks[5]
    for width in widths:
        block.reset_hash()
        block.block_hash = make_block_hash_with_group_id(BlockHash(b"x" * width), 0)
    assert asked.match().num_tokens.tolist() == fresh_hits(asked.manager, requests_of(asked))[0]


def test_a_row_that_is_handed_out_again_knows_nothing(asked):
    asked.untrack(asked.rows.all())
    rows = asked.track([make_request("other", [9] * 40, 4)])
    assert asked.rows.memo[rows, KNOWN].tolist() == [0]
    assert asked.match().num_tokens.tolist() == [0]


def test_new_hits_are_found_behind_what_is_known(asked):
    manager = asked.manager
    longer = make_request("longer", list(range(80)), 4)
    rows = asked.track([longer])
    assert asked.match(rows).num_tokens.tolist() == [40]
    admitted(manager, "grown", range(80))
    assert asked.match(rows).num_tokens.tolist() == [76]


def test_growing_keeps_what_is_known(asked):
    asked.rows.grow(10, 1000)
    spoil(asked)
    assert asked.match().num_tokens.tolist() == [36]


@pytest.mark.parametrize("num_blocks", [1, 2, 63, 64, 65, 100, 1000, 4096, 4097, 200_000])
def test_every_block_has_a_region(num_blocks):
    meta = make_meta(num_blocks)
    region = jit(python_of(region_of))
    regions = [region(meta, row) for row in range(num_blocks)]
    assert regions == sorted(regions)
    assert regions[0] == 0
    assert regions[-1] < REGIONS
    assert regions[-1] >= min(num_blocks, REGIONS // 2) - 1


def test_nothing_is_remembered_of_hashes_that_a_request_has_no_longer():
    manager = make_manager(full(4), num_blocks=100)
    assert admit(manager, make_request("warm", list(range(80)), 4)) is not None
    request = make_request("a", list(range(81)), 4)
    queries = BatchQueries(manager, 8, 1000)
    rows = queries.track([request])
    assert queries.match(rows).num_tokens.tolist() == [80]
    request.block_hashes = make_request("b", [9] * 81, 4).block_hashes
    queries.extend(rows)
    assert queries.match(rows).num_tokens.tolist() == [manager.get_computed_blocks(request)[1]]


def test_lookups_leave_the_references_to_arrays_as_they_were():
    manager = make_manager(full(4), window(4, 8), num_blocks=80)
    batch = BatchManager(manager, max_requests=4, max_hashes=400)
    request = make_request("a", 40, 4)
    rows = batch.track([request])
    batch.allocate_batch(rows, 40)
    batch.free_batch(rows)
    index = manager.block_pool.index
    arrays = [index.table, index.state.records, index.state.meta, batch.rows.memo, batch.queries.plan.words]

    def look_up():
        for _ in range(50):
            batch.rows.forget()
            batch.match(rows)
            batch.match(rows)
            manager.get_computed_blocks(request)

    look_up()
    before = [sys.getrefcount(array) for array in arrays]
    look_up()
    assert [sys.getrefcount(array) for array in arrays] == before
