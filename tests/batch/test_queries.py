"""Batched lookups: the same hits as one request at a time, whatever the groups and the index."""

import numpy as np
import pytest
from support.indexes import every_backend
from support.managers import CPU_BACKENDS, admit, chunked, full, make_manager, make_request, mamba, window

from kvgpu.batch.queries import BatchQueries
from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.hashing import functions as hashing

MODELS = {
    "full": ((full(4),), {}),
    "full_eagle": ((full(4),), {"use_eagle": True}),
    "window": ((window(4, 12),), {}),
    "chunked": ((chunked(4, 16),), {}),
    "mamba": ((mamba(4),), {}),
    "sizes": ((full(4), full(8), full(16)), {}),
    "hybrid": ((full(8), window(4, 8), window(4, 8)), {}),
    "hybrid_eagle": ((full(4), window(4, 12)), {"eagle_groups": [0]}),
    "hybrid_mamba": ((full(4), mamba(8)), {}),
    "no_caching": ((full(4),), {"enable_caching": False}),
}


def busy_manager(model, backend, seed):
    """A manager that has served requests with common prefixes, and requests that wait."""
    rng = np.random.default_rng(seed)
    specs, options = MODELS[model]
    manager = make_manager(*specs, num_blocks=120, backend=backend, **options)
    documents = [rng.integers(0, 50, 80).tolist() for _ in range(3)]

    def tokens():
        return documents[rng.integers(3)][: rng.integers(1, 80)] + rng.integers(0, 50, 5).tolist()

    size = manager.coordinator.hash_block_size
    for number in range(12):
        request = make_request(f"old{number}", tokens(), size)
        manager.new_step_starts()
        if admit(manager, request) is not None and rng.random() < 0.7:
            manager.free(request)
    manager.new_step_starts()
    return manager, [make_request(f"new{number}", tokens(), size) for number in range(9)]


@every_backend
class TestQueries:
    @pytest.mark.parametrize("model", MODELS)
    def test_a_batch_hits_what_each_request_hits(self, backend, model):
        for seed in range(6 if backend in CPU_BACKENDS else 1):
            manager, waiting = busy_manager(model, backend, seed)
            queries = BatchQueries(manager, 16, 600)
            hits = queries.match(queries.track(waiting))
            single = [manager.get_computed_blocks(request) for request in waiting]
            assert hits.num_tokens.tolist() == [tokens for _, tokens in single]
            for lengths, (blocks, _) in zip(hits.lengths.tolist(), single, strict=True):
                found = [len(group) for group in blocks.blocks]
                assert set(lengths) <= set(found) or not any(found)

    def test_some_rows_can_be_asked_in_any_order(self, backend):
        manager, waiting = busy_manager("full", backend, 1)
        queries = BatchQueries(manager, 16, 600)
        rows = queries.track(waiting)
        everything = queries.match()
        some = queries.match(rows[[7, 2, 4]])
        assert some.num_tokens.tolist() == everything.num_tokens[[7, 2, 4]].tolist()

    def test_hits_can_be_written_over_those_of_an_earlier_call(self, backend):
        manager, waiting = busy_manager("hybrid", backend, 1)
        queries = BatchQueries(manager, 16, 600)
        rows = queries.track(waiting)
        out = queries.match(rows[[0, 1, 2]])
        expected = queries.match(rows[[7, 2, 4]])
        assert queries.match(rows[[7, 2, 4]], out=out) is out
        assert out.num_tokens.tolist() == expected.num_tokens.tolist()
        assert out.lengths.tolist() == expected.lengths.tolist()

    def test_an_empty_batch_has_no_hits(self, backend):
        manager, _ = busy_manager("full", backend, 1)
        assert BatchQueries(manager, 16, 600).match().num_tokens.tolist() == []

    def test_hits_follow_the_cache_and_the_requests(self, backend):
        manager = make_manager(full(4), num_blocks=40, backend=backend)
        queries = BatchQueries(manager, 4, 100)
        request = make_request("a", 30, 4)
        rows = queries.track([request])
        assert queries.match(rows).num_tokens.tolist() == [0]
        other = make_request("b", 22, 4)
        admit(manager, other)
        assert queries.match(rows).num_tokens.tolist() == [20]
        manager.free(other)
        manager.evict_blocks([3])
        assert queries.match(rows).num_tokens.tolist() == [8]
        assert manager.reset_prefix_cache()
        assert queries.match(rows).num_tokens.tolist() == [0]
        longer = make_request("c", list(range(30)) + [7] * 10, 4)
        admit(manager, longer)
        request.append_output_token_ids([7] * 10)
        queries.extend(rows)
        assert queries.match(rows).num_tokens.tolist() == [36]

    def test_a_request_that_must_not_reuse_blocks_hits_nothing(self, backend):
        manager = make_manager(full(4), num_blocks=40, backend=backend)
        admit(manager, make_request("a", 30, 4))
        request = make_request("b", 30, 4)
        request.skip_reading_prefix_cache = True
        queries = BatchQueries(manager, 4, 100)
        assert queries.match(queries.track([request])).num_tokens.tolist() == [0]

    def test_lookups_do_not_count_in_the_statistics(self, backend):
        manager = make_manager(full(4), num_blocks=40, backend=backend, log_stats=True)
        queries = BatchQueries(manager, 4, 100)
        queries.match(queries.track([make_request("a", 30, 4)]))
        assert manager.make_prefix_cache_stats().requests == 0

    def test_hashes_that_records_cannot_hold_are_served(self, backend):
        manager = make_manager(full(4), num_blocks=40, backend=backend)
        admit(manager, make_request("a", 30, 4))
        queries = BatchQueries(manager, 4, 100)
        rows = queries.track([make_request("b", 30, 4, hashing.xxhash)])
        assert queries.match(rows).num_tokens.tolist() == [0]
        admit(manager, make_request("c", 22, 4, hashing.xxhash))
        assert queries.match(rows).num_tokens.tolist() == [20]

    def test_an_untracked_row_is_refused(self, backend):
        manager, waiting = busy_manager("full", backend, 1)
        queries = BatchQueries(manager, 16, 600)
        queries.track(waiting)
        with pytest.raises(ArgumentError, match="not tracked"):
            queries.match(np.array([12]))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_results_stay_on_a_device_only_where_there_is_one(backend):
    manager, waiting = busy_manager("full", backend, 1)
    queries = BatchQueries(manager, 16, 600)
    with pytest.raises(ArgumentError, match="on a device"):
        queries.match_async(queries.track(waiting))


def test_results_left_on_the_device_are_the_same():
    pytest.importorskip("support.device.tables")
    manager, waiting = busy_manager("hybrid", "triton", 1)
    queries = BatchQueries(manager, 16, 600)
    rows = queries.track(waiting)
    started = queries.match_async(rows)
    hits = queries.match(rows)
    assert started.num_tokens.cpu().tolist() == hits.num_tokens.tolist()
    assert queries.match_async(rows, out=started) is started
    ids = started.ids.cpu()
    for place, row in enumerate(rows.tolist()):
        blocks, _ = manager.get_computed_blocks(waiting[place])
        begin = int(queries.rows.records["begin"][row])
        for group, line in enumerate(manager.coordinator.plan.groups):
            mine = blocks.get_block_ids()[line] if any(map(len, blocks.blocks)) else []
            assert ids[group, begin : begin + len(mine)].tolist() == mine


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"num_tokens": np.zeros(4, np.int64)}, ArgumentError),
        ({"lengths": np.zeros((3, 2), np.int32)}, ArgumentError),
        ({"num_tokens": np.zeros(3, np.int32)}, ArgumentTypeError),
        ({"lengths": np.zeros((3, 1), np.int64)}, ArgumentTypeError),
    ],
)
def test_results_that_do_not_fit_are_refused_before_anything_is_written(change, error):
    manager, waiting = busy_manager("full", "host", 1)
    queries = BatchQueries(manager, 16, 600)
    rows = queries.track(waiting)[:3]
    good = queries.match(rows)
    for part in good:
        part[:] = -7
    with pytest.raises(error, match=next(iter(change))):
        queries.match(rows, out=good._replace(**change))
    assert good.num_tokens.tolist() == [-7] * 3
    assert good.lengths.tolist() == [[-7]] * 3
