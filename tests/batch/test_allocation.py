"""What `BatchManager` gives and takes back, call by call."""

from unittest.mock import Mock

import numpy as np
import pytest
from support.batches import make_batch, requests_of, track
from support.managers import admit, full, make_manager, make_request, mamba, per_backend, window

from kvgpu.batch.manager import BatchManager
from kvgpu.batch.rows.pending_tokens import PendingTokens
from kvgpu.batch.rows.requests import RequestRows
from kvgpu.errors import ArgumentError, ConfigError
from kvgpu.hashing.hash_arena import HashArena

SHARED = list(range(16))


def computed(batch):
    return batch.rows.records["num_computed"][batch.rows.all()].tolist()


@per_backend
class TestNewRows:
    def test_a_row_hits_what_an_earlier_row_of_the_batch_has_cached(self, backend):
        batch = make_batch(full(4), backend=backend)
        got = batch.allocate_batch(track(batch, [*SHARED, 1], [*SHARED, 2]), 17)
        assert got.num_hit_tokens.tolist() == [0, 16]

    def test_new_tokens_are_cut_to_what_the_hit_leaves(self, backend):
        batch = make_batch(full(4), backend=backend)
        got = batch.allocate_batch(track(batch, [*SHARED, 1], [*SHARED, 2, 3]), 17)
        assert got.num_new_tokens.tolist() == [17, 2]

    def test_hits_and_new_tokens_count_as_computed(self, backend):
        batch = make_batch(full(4), backend=backend)
        batch.allocate_batch(track(batch, SHARED, [*SHARED, 2, 3]), [16, 1])
        assert computed(batch) == [16, 17]

    def test_a_row_that_does_not_fit_gets_nothing_and_those_behind_are_tried(self, backend):
        batch = make_batch(full(4), num_blocks=6, backend=backend)
        got = batch.allocate_batch(track(batch, 8, 16, 4), 16)
        assert (got.fits.tolist(), got.num_tried) == ([True, False, True], 3)

    def test_with_stop_when_full_those_behind_are_not_tried(self, backend):
        batch = make_batch(full(4), num_blocks=6, backend=backend)
        got = batch.allocate_batch(track(batch, 8, 16, 4), 16, stop_when_full=True)
        assert (got.fits.tolist(), got.num_tried) == ([True, False, False], 2)

    def test_a_row_that_did_not_fit_is_looked_up_again(self, backend):
        batch = make_batch(full(4), num_blocks=7, backend=backend)
        rows = track(batch, [*SHARED, 1], [*SHARED, *range(50, 63)])
        assert batch.allocate_batch(rows, 29).fits.tolist() == [True, False]
        batch.free_batch(rows[:1])
        again = batch.allocate_batch(rows[1:], 8)
        assert (again.fits.tolist(), again.num_hit_tokens.tolist()) == ([True], [16])

    def test_every_lookup_counts_once(self, backend):
        batch = make_batch(full(4), num_blocks=7, backend=backend, log_stats=True)
        rows = track(batch, [*SHARED, 1], [*SHARED, *range(50, 63)])
        batch.allocate_batch(rows, 29)
        stats = batch.manager.make_prefix_cache_stats()
        assert (stats.requests, stats.queries, stats.hits) == (2, 46, 16)

    def test_an_empty_batch_gets_nothing(self, backend):
        batch = make_batch(full(4), backend=backend)
        got = batch.allocate_batch(np.zeros(0, np.int64), 1)
        assert (len(got), got.num_tried, got.slot_mapping().tolist()) == (0, 0, [])

    def test_an_empty_batch_may_have_an_empty_list_of_tokens(self, backend):
        batch = make_batch(full(4), backend=backend)
        assert len(batch.allocate_batch(np.zeros(0, np.int64), [])) == 0

    def test_tokens_that_others_computed_take_blocks_as_in_a_single_call(self, backend):
        """A request says that it has computed more tokens than its blocks hold: none."""
        batch = make_batch(full(4), backend=backend)
        twin = make_manager(full(4), backend=backend)
        one, other = (make_request("a", 8, 4) for _ in range(2))
        one.num_computed_tokens = other.num_computed_tokens = 300
        blocks, num_hits = twin.get_computed_blocks(one)
        expected = twin.allocate_slots(one, 8, num_hits, blocks).get_block_ids()
        assert batch.allocate_batch(batch.track([other]), 8).get_block_ids(0) == expected


@per_backend
class TestRunningRows:
    def test_a_step_inside_a_block_takes_no_block(self, backend):
        batch = make_batch(full(4), backend=backend)
        rows = track(batch, 5, 6)
        batch.allocate_batch(rows, 6)
        batch.append_batch(rows, [1, 1])
        assert batch.allocate_batch(rows, 1).block_ids.tolist() == []

    def test_lookahead_tokens_get_slots_and_are_not_cached(self, backend):
        batch = make_batch(full(4), backend=backend)
        got = batch.allocate_batch(track(batch, 6), 6, num_lookahead_tokens=6)
        assert got.get_block_ids(0) == ([1, 2, 3],)
        assert batch.manager.coordinator.single_type_managers[0].num_cached_block["r0"] == 1

    def test_slots_of_tokens_taken_back_stay(self, backend):
        batch = make_batch(full(4), backend=backend)
        rows = track(batch, 6)
        batch.allocate_batch(rows, 12)
        batch.append_batch(rows, [1, 1, 1, 1], [4])
        batch.allocate_batch(rows, 4)
        batch.rewind(rows, 3)
        assert computed(batch) == [7]
        assert batch.allocate_batch(rows, 5).block_ids.tolist() == []

    def test_blocks_that_were_delayed_are_cached_by_the_next_step(self, backend):
        batch = make_batch(full(4), backend=backend)
        rows = track(batch, SHARED)
        batch.allocate_batch(rows, 16, delay_cache_blocks=True)
        assert batch.match(track(batch, SHARED)).num_tokens.tolist() == [0]
        batch.append_batch(rows, [7])
        batch.allocate_batch(rows, 1)
        assert batch.match().num_tokens.tolist() == [16, 12]


@per_backend
class TestComingAndGoing:
    def test_a_request_that_holds_blocks_goes_on_with_them(self, backend):
        batch = make_batch(full(4), backend=backend)
        request = make_request("a", 6, 4)
        admit(batch.manager, request)
        rows = batch.track([request])
        batch.append_batch(rows, [1, 2, 3], [3])
        got = batch.allocate_batch(rows, 3)
        assert (got.num_hit_tokens.tolist(), got.get_block_ids(0)) == ([0], ([3],))

    def test_an_untracked_request_keeps_its_blocks_and_can_be_served_by_single_calls(self, backend):
        batch = make_batch(full(4), backend=backend)
        rows = track(batch, 6)
        (request,) = requests_of(batch)
        batch.allocate_batch(rows, 6)
        batch.untrack(rows)
        request.append_output_token_ids([1, 2, 3])
        assert batch.manager.allocate_slots(request, 3).get_block_ids() == ([3],)

    def test_a_freed_row_stays_tracked_with_nothing_computed(self, backend):
        batch = make_batch(full(4), backend=backend)
        rows = track(batch, 6)
        batch.allocate_batch(rows, 6)
        batch.free_batch(rows)
        assert (computed(batch), batch.manager.usage) == ([0], 0.0)
        assert batch.allocate_batch(rows, 6).fits.tolist() == [True]

    def test_rows_without_blocks_are_passed_over(self, backend):
        batch = make_batch(full(4), backend=backend)
        rows = track(batch, 6, 6, 6)
        batch.allocate_batch(rows[1:2], 6)
        batch.free_batch(rows)
        assert batch.manager.usage == 0.0

    def test_the_lookup_of_a_preempted_request_counts_apart(self, backend):
        batch = make_batch(full(4), backend=backend, log_stats=True)
        rows = track(batch, SHARED)
        batch.allocate_batch(rows, 16)
        batch.free_batch(rows, preempt=True)
        batch.allocate_batch(rows, 16)
        stats = batch.manager.make_prefix_cache_stats()
        assert (stats.requests, stats.preempted_requests, stats.preempted_hits) == (1, 1, 12)
        assert requests_of(batch)[0].num_preemptions == 1

    @pytest.mark.parametrize(
        "specs",
        [(window(4, 8),), (window(4, 8), full(4)), (mamba(4, "align"),)],
        ids=["window", "window_first", "mamba"],
    )
    def test_a_refused_request_that_is_tracked_again_is_looked_up_again(self, backend, specs):
        batch = make_batch(*specs, num_blocks=8 * len(specs), backend=backend, enable_kv_cache_events=True)
        first = track(batch, SHARED)
        batch.allocate_batch(first, 16)
        second = batch.track([make_request("second", [*SHARED, *range(50, 90)], 4)])
        assert not batch.allocate_batch(second, 40).fits[0]
        (_, request) = requests_of(batch)
        batch.untrack(second)
        second = batch.track([request])
        assert batch.allocate_batch(second, 1).num_hit_tokens.tolist() == [16]


@per_backend
def test_growing_keeps_what_rows_hold(backend):
    batch = make_batch(full(4), max_requests=2, max_hashes=10, backend=backend)
    rows = track(batch, 6, 7)
    batch.allocate_batch(rows, 7)
    batch.append_batch(rows, [1, 1])
    batch.grow(5, 60)
    more = track(batch, 9, 9, 9)
    assert batch.allocate_batch(np.concatenate([rows, more]), 4).fits.all()
    batch.sync()
    assert [r.num_tokens for r in requests_of(batch)] == [7, 8, 9, 9, 9]


@pytest.mark.parametrize("owner", [PendingTokens, RequestRows, HashArena])
def test_growing_that_finds_no_memory_changes_nothing(monkeypatch, owner):
    batch = make_batch(full(4), max_requests=2, max_hashes=10)
    rows = track(batch, 6, 7)
    batch.allocate_batch(rows, 7)
    with monkeypatch.context() as patched:
        name = "grown" if owner is HashArena else "grow"
        patched.setattr(owner, name, Mock(side_effect=MemoryError))
        with pytest.raises(MemoryError):
            batch.grow(9, 60)
    assert (len(batch.rows.records), len(batch.rows.hashes.arena), batch.rows.hashes.epoch) == (2, 10, 0)
    with pytest.raises(ArgumentError, match="grow"):
        track(batch, 9)
    batch.grow(3, 60)
    assert batch.allocate_batch(np.append(rows, track(batch, 9)), 1).fits.all()


@per_backend
def test_a_refusal_leaves_no_table_whatever_has_refused(backend):
    """Compiled code and the managers of the groups leave the same behind."""
    manager = make_manager(full(4), window(4, 8), num_blocks=15, backend=backend)
    admit(manager, make_request("a", SHARED, 4))
    request = make_request("b", [*SHARED, *range(50, 90)], 4)
    assert admit(manager, request) is None
    assert [list(single.req_to_blocks) for single in manager.coordinator.single_type_managers] == [["a"], ["a"]]


@pytest.mark.parametrize("capacity", [(0, 5), (5, 0), (-1, 5)])
def test_capacities_are_at_least_one(capacity):
    with pytest.raises(ConfigError, match="must be 1 to"):
        BatchManager(make_manager(full(4)), *capacity)


def test_a_model_without_groups_is_refused():
    manager = make_manager(enable_caching=False, scheduler_block_size=4, hash_block_size=4)
    with pytest.raises(ConfigError, match="without cache groups"):
        BatchManager(manager, 4, 40)
