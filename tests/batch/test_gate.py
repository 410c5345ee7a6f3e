"""What comes from outside is refused by a batch before compiled code sees it, and before anything is changed."""

from types import SimpleNamespace

import numpy as np
import pytest
from support.batches import refused
from support.managers import chunked, full, make_manager, make_request, window

from kvgpu.batch.manager import BatchManager
from kvgpu.batch.step import allocate as step
from kvgpu.errors import ArgumentError, ArgumentTypeError


@pytest.mark.parametrize("spec", [window(4, 8), chunked(4, 8)], ids=lambda spec: type(spec).__name__)
@pytest.mark.parametrize("enable_caching", [True, False])
def test_a_row_that_says_more_computed_tokens_than_it_holds_is_refused(spec, enable_caching):
    manager = make_manager(spec, num_blocks=4, enable_caching=enable_caching)
    request = make_request("a", 41, 4)
    manager.allocate_slots(request, 4, delay_cache_blocks=True)
    request.num_computed_tokens = 36
    batch = BatchManager(manager, 4, 64)
    rows = batch.track([request])
    with refused(batch, ArgumentError, "holds blocks for"):
        batch.allocate_batch(rows, 4)


class TestBatches:
    @pytest.fixture
    def batch(self):
        return BatchManager(make_manager(full(4), num_blocks=60, max_model_len=40), 4, 100)

    def tracked(self, batch, *lengths):
        requests = [make_request(f"r{i}", [i * 100 + k for k in range(n)], 4) for i, n in enumerate(lengths)]
        return requests, batch.track(requests)

    def test_rows_that_cannot_be_written_compile_nothing(self, batch):
        _, rows = self.tracked(batch, 9, 9)
        batch.allocate_batch(rows, 40)
        before = len(step.take_step.signatures)
        frozen = rows.copy()
        frozen.flags.writeable = False
        for odd in (frozen, np.repeat(rows, 2)[::2], rows.astype(">i8"), rows.astype(np.int32)):
            batch.allocate_batch(odd, 1)
        assert len(step.take_step.signatures) == before

    @pytest.mark.parametrize("out", ["read-only", "shared", "a list"])
    def test_tables_that_cannot_be_written_are_refused_before_blocks_are_given(self, out):
        manager = make_manager(full(4), window(4, 8), num_blocks=60)
        batch = BatchManager(manager, 4, 100)
        rows = batch.track([make_request("a", 9, 4)])
        tables = [np.zeros((4, 20), np.int32) for _ in range(2)]
        if out == "read-only":
            tables[1].flags.writeable = False
        elif out == "shared":
            tables[1] = tables[0]
        else:
            tables[1] = tables[1].tolist()
        with refused(batch, ArgumentError):
            batch.allocate_batch(rows, 9, out=tables)

    @pytest.mark.parametrize("name", ["num_lookahead_tokens", "reserved_blocks"])
    @pytest.mark.parametrize("value", [-1, -100, 2**40, 2**63, 1.5, None])
    def test_numbers_out_of_range_are_refused(self, batch, name, value):
        _, rows = self.tracked(batch, 9)
        with refused(batch, ArgumentError):
            batch.allocate_batch(rows, 9, **{name: value})

    @pytest.mark.parametrize("tokens", [2**63 - 1, 2**31, [2**62]])
    def test_more_new_tokens_than_can_be_counted_are_refused(self, batch, tokens):
        _, rows = self.tracked(batch, 9)
        batch.allocate_batch(rows, 9)
        with refused(batch, ArgumentError):
            batch.allocate_batch(rows, tokens)

    def test_tokens_beyond_the_model_are_refused(self, batch):
        _, rows = self.tracked(batch, 39, 9)
        batch.allocate_batch(rows, 39)
        with refused(batch, ArgumentError, "max_model_len = 40"):
            batch.allocate_batch(rows, 2)

    def test_slots_are_not_told_once_they_may_have_changed(self, batch):
        _, rows = self.tracked(batch, 9, 9)
        got = batch.allocate_batch(rows, 9)
        assert len(got.slot_mapping()) == 18
        batch.free_batch(rows[:1])
        with pytest.raises(ArgumentError, match="before the next call"):
            got.slot_mapping()

    def test_a_request_that_is_renamed_goes_by_its_old_name(self, batch):
        requests, rows = self.tracked(batch, 9, 9)
        batch.allocate_batch(rows, 9)
        requests[0].request_id = "renamed"
        batch.free_batch(rows)
        batch.untrack(rows)
        assert batch.manager.block_pool.get_num_free_blocks() == 59
        batch.manager.check()

    @pytest.mark.parametrize("preempt", [np.array([True, False]), np.array([])])
    def test_freeing_with_an_odd_option_frees_nothing(self, batch, preempt):
        _, rows = self.tracked(batch, 9)
        batch.allocate_batch(rows, 9)
        if preempt.size:
            with refused(batch, ArgumentTypeError):
                batch.free_batch(rows, preempt=preempt)

    @pytest.mark.parametrize("value", [-1, 2**31, 2**32 + 5, 5.9, None, "7"])
    @pytest.mark.parametrize("name", ["num_tokens", "num_computed_tokens", "num_prompt_tokens"])
    def test_tracking_a_request_with_odd_numbers_tracks_none(self, batch, name, value):
        odd = SimpleNamespace(
            **{
                "request_id": "odd",
                "block_hashes": [],
                "num_tokens": 3,
                "num_computed_tokens": 0,
                "skip_reading_prefix_cache": False,
                name: value,
            }
        )
        if name == "num_prompt_tokens" and value is None:
            return  # not known
        good = make_request("good", 9, 4)
        with pytest.raises(ArgumentError, match="odd"):
            batch.track([good, odd])
        assert len(batch.track([good])) == 1

    @pytest.mark.parametrize("number", [int, np.int64, np.uint8])
    def test_counts_of_a_request_may_be_any_integers(self, batch, number):
        counts = {"num_tokens": 3, "num_prompt_tokens": 2, "num_computed_tokens": 1, "num_preemptions": 1}
        other = SimpleNamespace(
            request_id="other",
            block_hashes=[],
            skip_reading_prefix_cache=True,
            **{name: number(count) for name, count in counts.items()},
        )
        rows = batch.track([make_request("usual", 9, 4), other])
        records = batch.rows.records[rows]
        assert records["num_tokens"].tolist() == [9, 3]
        assert records["num_prompt"].tolist() == [9, 2]
        assert records["num_computed"].tolist() == [0, 1]
        assert records["preempted"].tolist() == [0, 1]
        assert records["reads"].tolist() == [1, 0]

    def test_hashes_of_a_request_are_read_once(self, batch):
        long, short = (make_request(name, count, 4).block_hashes for name, count in (("long", [9] * 400), ("short", 9)))

        class Moody(SimpleNamespace):
            @property
            def block_hashes(self):
                return next(self.answers)

        request = Moody(
            request_id="moody", num_tokens=400, skip_reading_prefix_cache=False, answers=iter([short, long, short])
        )
        rows = batch.track([request])
        assert batch.rows.hashes.of(int(rows[0])) == list(short)

    def test_what_an_engine_has_loaded_is_taken_over(self, batch):
        """Keys and values that arrived while the request was tracked: their slots are not given again."""
        request = make_request("a", 20, 4)
        batch.manager.allocate_slots(request, 0, num_external_computed_tokens=16, delay_cache_blocks=True)
        rows = batch.track([request])
        request.num_computed_tokens = 16
        batch.extend(rows)
        got = batch.allocate_batch(rows, 4)
        block = batch.manager.get_block_ids("a")[0][4]
        assert got.slot_mapping().tolist() == [4 * block + i for i in range(4)]

    def test_a_row_and_a_request_that_both_went_on_are_refused(self, batch):
        (request,), rows = self.tracked(batch, 12)
        batch.allocate_batch(rows, 12)
        request.num_computed_tokens = 7
        with pytest.raises(ArgumentError, match="when they last agreed"):
            batch.extend(rows)

    def test_computed_tokens_can_be_set_up_to_those_with_slots(self, batch):
        (request,), rows = self.tracked(batch, 12)
        batch.allocate_batch(rows, 4)
        batch.set_computed(rows, 3)
        batch.sync(rows)
        assert request.num_computed_tokens == 3
        with pytest.raises(ArgumentError, match="slots for 4 tokens"):
            batch.set_computed(rows, 5)
