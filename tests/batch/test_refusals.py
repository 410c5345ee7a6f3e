"""Bad input of batches: a typed error, and everything as it was, even if only the last row is bad."""

from types import SimpleNamespace

import numpy as np
import pytest
from support.batches import make_batch, poisoned, refused, requests_of, track
from support.managers import full, make_request, per_backend, window

from kvgpu.batch.manager import BatchManager
from kvgpu.errors import ArgumentError, ArgumentTypeError, BlockStateError
from kvgpu.request import Request

ROWS = np.array([0, 1, 2])

CALLS = {
    "allocate_batch": lambda batch, rows: batch.allocate_batch(rows, 1),
    "free_batch": lambda batch, rows: batch.free_batch(rows),
    "append_batch": lambda batch, rows: batch.append_batch(rows, [1] * len(rows)),
    "rewind": lambda batch, rows: batch.rewind(rows, 0),
    "sync": lambda batch, rows: batch.sync(rows),
    "extend": lambda batch, rows: batch.extend(rows),
    "untrack": lambda batch, rows: batch.untrack(rows),
    "match": lambda batch, rows: batch.match(rows),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@pytest.fixture(params=["host", "reference"])
def served(request):
    """Rows 0 and 1 hold blocks and tokens that their requests have not got, row 2 waits."""
    batch = make_batch(full(4), window(4, 6), backend=request.param, max_requests=4, max_hashes=12)
    rows = track(batch, 10, 10, 7)
    batch.allocate_batch(rows[:2], 10)
    batch.append_batch(rows[:2], [5, 6])
    return batch


class TestRows:
    @every_call
    def test_a_row_that_is_not_tracked_is_refused(self, served, call):
        with refused(served, ArgumentError, "not tracked"):
            call(served, np.array([0, 1, 3]))

    @every_call
    def test_a_row_outside_the_capacity_is_refused(self, served, call):
        with refused(served, ArgumentError, "not tracked"):
            call(served, np.array([0, 1, -1]))

    @every_call
    def test_a_row_that_comes_twice_is_refused(self, served, call):
        with refused(served, ArgumentError, "twice"):
            call(served, np.array([0, 1, 0]))

    @every_call
    @pytest.mark.parametrize("rows", [ROWS.astype(float), ROWS[None], [True, False, True]])
    def test_rows_that_are_no_list_of_integers_are_refused(self, served, call, rows):
        with refused(served, ArgumentError, "integers"):
            call(served, rows)

    @pytest.mark.parametrize("call", [CALLS["allocate_batch"], CALLS["free_batch"]])
    def test_a_row_whose_blocks_were_freed_beside_the_batch_is_refused(self, served, call):
        served.manager.free(served.rows.requests[1])
        with refused(served, ArgumentError, "lost its blocks"):
            call(served, ROWS)

    @pytest.mark.parametrize("call", [CALLS["allocate_batch"], CALLS["free_batch"]])
    def test_it_is_refused_as_well_after_batches_without_it(self, served, call):
        served.manager.free(served.rows.requests[1])
        for _ in range(2):
            assert served.allocate_batch(ROWS[:1], 1).fits.all()
        with refused(served, ArgumentError, "lost its blocks"):
            call(served, ROWS)

    @pytest.mark.parametrize("call", [CALLS["allocate_batch"], CALLS["free_batch"]])
    def test_a_row_whose_blocks_another_batch_has_freed_is_refused(self, served, call):
        served.sync()
        other = BatchManager(served.manager, 4, 100)
        other.free_batch(other.track([served.rows.requests[1]]))
        assert other.allocate_batch(other.track([make_request("t", 9, 4)]), 9).fits.all()
        with refused(served, ArgumentError, "lost its blocks"):
            call(served, ROWS)

    def test_requests_that_were_never_tracked_may_be_freed_beside_the_batch(self, served):
        other = make_request("other", 9, 4)
        served.manager.allocate_slots(other, 9)
        served.manager.free(other)
        assert served.allocate_batch(ROWS, 1).fits.all()

    def test_a_row_whose_blocks_were_freed_beside_the_batch_can_be_untracked(self, served):
        request = served.rows.requests[1]
        served.manager.free(request)
        served.untrack(ROWS[1:2])
        request.num_computed_tokens = 0
        assert served.allocate_batch(served.track([request]), 4).fits.all()


class TestTokens:
    @pytest.mark.parametrize("tokens", [0, -1, [1, 1, 0], [1, 1, -3]])
    def test_less_than_one_new_token_is_refused(self, served, tokens):
        with refused(served, ArgumentError, "at least 1 new token"):
            served.allocate_batch(ROWS, tokens)

    @pytest.mark.parametrize("tokens", [1.0, [1.0] * 3, True, "one", [1, 2], [[1, 2, 3]], [1] * 4])
    def test_new_tokens_that_are_not_one_integer_a_row_are_refused(self, served, tokens):
        with refused(served, ArgumentTypeError, "num_new_tokens"):
            served.allocate_batch(ROWS, tokens)

    @pytest.mark.parametrize("tokens", [(1 << 31) - 1, 1 << 32, [1, (1 << 31) - 8, 1]])
    def test_more_tokens_than_a_record_can_count_are_refused(self, served, tokens):
        with refused(served, ArgumentError, "more than"):
            served.allocate_batch(ROWS, tokens)

    def test_a_request_without_tokens_is_refused(self, served):
        row = served.track([make_request("empty", 0, 4)])
        with refused(served, ArgumentError, "at least 1 new token"):
            served.allocate_batch(np.concatenate([ROWS, row]), 1)

    @pytest.mark.parametrize(
        ("tokens", "counts"),
        [
            ([1, 2], None),
            ([1, 2, 3, 4], None),
            ([[1, 2, 3]], None),
            (7, None),
            ([1, 2, 3], [1, 2]),
            ([1, 2, 3], [1, 1, 2]),
            ([1, 2, 3], [2, 2, -1]),
            ([1, 2, 3], 1),
        ],
    )
    def test_appending_another_number_of_tokens_is_refused(self, served, tokens, counts):
        with refused(served, ArgumentError, "as many counts"):
            served.append_batch(ROWS, tokens, counts)

    @pytest.mark.parametrize(
        ("tokens", "counts"), [([1.0, 2.0, 3.0], None), ("abc", None), ([2**70, 1, 1], None), ([1, 2, 3], [1.0] * 3)]
    )
    def test_appending_what_are_no_integers_is_refused(self, served, tokens, counts):
        with refused(served, ArgumentTypeError, "integers"):
            served.append_batch(ROWS, list(tokens), counts)

    def test_appending_tokens_whose_hashes_have_no_room_is_refused(self, served):
        with refused(served, ArgumentError, "grow"):
            served.append_batch(ROWS, [3] * 42, [1, 1, 40])

    @pytest.mark.parametrize("tokens", [[0, 0, 1], [11, 0, 0], -1, [1, 1, -1]])
    def test_taking_back_more_than_was_computed_is_refused(self, served, tokens):
        with refused(served, ArgumentError, "computed"):
            served.rewind(ROWS, tokens)

    @pytest.mark.parametrize("tokens", [0.5, [1.0, 1.0, 0.0], [1, 0], [[1, 1, 0]], "1"])
    def test_taking_back_what_is_not_one_integer_a_row_is_refused(self, served, tokens):
        with refused(served, ArgumentError):
            served.rewind(ROWS, tokens)


class TestRequests:
    def test_tracking_a_tracked_request_is_refused(self, served):
        with refused(served, ArgumentError, "tracked already"):
            served.track([make_request("new", 4, 4), served.rows.requests[0]])

    @pytest.mark.parametrize("num_tokens", [1 << 31, 1 << 70])
    def test_tracking_more_tokens_than_a_record_can_count_is_refused(self, served, num_tokens):
        long = SimpleNamespace(
            request_id="long", block_hashes=[], num_tokens=num_tokens, skip_reading_prefix_cache=False
        )
        for _ in range(3):
            with refused(served, ArgumentError, "request long: num_tokens must be 0 to"):
                served.track([long])
        assert len(served.track([make_request("one more", 4, 4)])) == 1

    def test_tracking_more_requests_than_rows_is_refused(self, served):
        with refused(served, ArgumentError, "grow"):
            served.track([make_request(name, 4, 4) for name in "xy"])

    def test_tracking_more_hashes_than_there_is_room_for_is_refused(self, served):
        with refused(served, ArgumentError, "grow"):
            served.track([make_request("x", 60, 4)])

    def test_a_request_that_became_shorter_is_refused(self, served):
        del served.rows.requests[2].all_token_ids[5:]
        with refused(served, ArgumentError, "shorter"):
            served.extend(ROWS)

    def test_extending_by_hashes_that_have_no_room_is_refused(self, served):
        served.sync()
        served.rows.requests[2].append_output_token_ids([1] * 40)
        with refused(served, ArgumentError, "grow"):
            served.extend(ROWS)

    @pytest.mark.parametrize("capacity", [(3, 100), (100, 3)])
    def test_shrinking_is_refused(self, served, capacity):
        with refused(served, ArgumentError, "only grow"):
            served.grow(*capacity)

    @pytest.mark.parametrize("capacity", [(4, 1 << 31), (8, 1 << 40)])
    def test_more_hashes_than_a_record_can_count_are_refused(self, served, capacity):
        with refused(served, ArgumentError, "max_hashes must be 0 to"):
            served.grow(*capacity)

    def test_a_request_without_hashes_is_refused(self, served):
        row = served.track([Request("bare", [1] * 8)])
        with refused(served, ArgumentError, "block hashes"):
            served.allocate_batch(np.concatenate([ROWS, row]), 1)

    def test_a_running_request_without_hashes_is_refused_when_it_fills_a_block(self, served):
        row = served.track([Request("bare", [1] * 3)])
        served.allocate_batch(row, 3)
        served.append_batch(row, [1])
        with refused(served, ArgumentError, "block hashes"):
            served.allocate_batch(np.concatenate([ROWS, row]), 1)


@per_backend
@pytest.mark.parametrize("events", [False, True])
def test_a_block_that_has_a_hash_already_is_refused(backend, events):
    batch = make_batch(full(4), backend=backend, enable_kv_cache_events=events)
    rows = track(batch, 6, 6)
    batch.allocate_batch(rows, 6)
    batch.append_batch(rows, [7, 7, 7, 7], [2, 2])
    block = batch.manager.get_blocks("r1").blocks[0][1]
    batch.manager.block_pool.cache_full_blocks(make_request("x", 4, 4), [block], 0, 1, 4, 0)
    batch.sync()
    with refused(batch, BlockStateError, "already|has a hash"):
        batch.allocate_batch(rows, 2)


class TestBlockTables:
    @pytest.mark.parametrize(
        "change",
        [
            lambda out: out[:1],
            lambda out: [*out, out[0]],
            lambda out: out[0],
            lambda out: [out[0], out[1].reshape(-1)],
            lambda out: [out[0], out[1][:3]],
            lambda out: [out[0], out[1][:, :2].copy()],
            lambda out: [out[0], out[1].T.copy().T],
            lambda out: [out[0], np.repeat(out[1], 2, 1)[:, ::2]],
        ],
        ids=["fewer", "more", "array", "flat", "rows", "narrow", "transposed", "strided"],
    )
    def test_block_tables_that_do_not_fit_are_refused(self, served, change):
        out = poisoned(served, 5, rows=5)
        with refused(served, ArgumentError, "out"):
            served.allocate_batch(ROWS, 1, out=change(out))
        assert all((table == -77).all() for table in out)

    @pytest.mark.parametrize("dtype", [np.int64, np.uint32, np.float32])
    def test_block_tables_of_another_dtype_are_refused(self, served, dtype):
        out = poisoned(served, 5)
        with refused(served, ArgumentTypeError, r"out\[1\]: an int32"):
            served.allocate_batch(ROWS, 1, out=[out[0], out[1].astype(dtype)])

    def test_a_list_of_lists_is_refused(self, served):
        out = [table.tolist() for table in poisoned(served, 5)]
        with refused(served, ArgumentTypeError, "int32"):
            served.allocate_batch(ROWS, 1, out=out)

    def test_tensors_of_another_dtype_or_layout_are_refused(self, served):
        torch = pytest.importorskip("torch")
        good = [torch.zeros(4, 5, dtype=torch.int32) for _ in range(2)]
        for bad in (good[1].long(), torch.zeros(5, 4, dtype=torch.int32).T):
            with refused(served, ArgumentError, "out"):
                served.allocate_batch(ROWS, 1, out=[good[0], bad])

    def test_block_tables_narrower_than_what_a_row_holds_are_refused(self, served):
        """Slots for drafts stay when the drafts are gone, and belong to the table."""
        served.allocate_batch(ROWS[:2], 1, num_lookahead_tokens=20)
        out = poisoned(served, 4)
        with refused(served, ArgumentError, "out"):
            served.allocate_batch(ROWS[:2], 4, out=out)
        assert all((table == -77).all() for table in out)


def test_requests_of_a_refused_batch_are_served_by_the_next(served):
    with refused(served, ArgumentError):
        served.allocate_batch(ROWS, [3, 3, 0])
    assert served.allocate_batch(ROWS, 3).fits.all()
    served.sync()
    assert [r.num_computed_tokens for r in requests_of(served)] == [13, 13, 3]
