"""Usual calls, which one compiled pass serves, beside the same calls served by the code for all others."""

import copy
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.batches import make_batch, refused, state_of
from support.managers import full, make_request, window

from kvgpu.errors import ArgumentError, ArgumentTypeError, ConcurrentUseError, KVGPUError
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.request_hasher import get_request_block_hasher
from kvgpu.native import append_tokens
from kvgpu.request import Request

SIZE = 4
FULL = (full(SIZE),)
FUNCTIONS = ["sha256", "sha256_cbor", "xxhash", "kvgpu128"]
EDGES = [0, 1, 255, 256, 65_535, 65_536, 2**31 - 1, -1, -(2**31)]

needs_extension = pytest.mark.skipif(append_tokens is None, reason="kvgpu was built without the extension in C")


def two_batches(lengths, function="sha256", specs=FULL):
    """The same requests twice, tracked and allocated: one batch may serve calls as usual, the other may not."""
    batches = []
    for _ in range(2):
        batch = make_batch(*specs, max_requests=8, max_hashes=400, num_blocks=400)
        hasher = get_request_block_hasher(SIZE, hashing.get_hash_fn_by_name(function))
        requests = [Request(f"r{i}", list(range(i, i + n)), block_hasher=hasher) for i, n in enumerate(lengths)]
        rows = batch.track(requests)
        assert batch.allocate_batch(rows, 1000).fits.all()
        batches.append((batch, rows))
    batches[1][0].requests.usual.prepare = lambda *of: None
    return batches


def hashes(batch, rows):
    return [batch.rows.hashes.of(row)[:] for row in rows.tolist()]


def answer(given):
    """What a caller sees of a `BatchAllocation`."""
    ids = [given.get_block_ids(place) for place in range(len(given))]
    counts = given.fits.tolist(), given.num_hit_tokens.tolist(), given.num_new_tokens.tolist(), given.num_tried
    return (*counts, ids, given.block_ids.tolist(), given.slot_mapping().tolist())


class TestBeside:
    @pytest.mark.parametrize("function", FUNCTIONS)
    @pytest.mark.parametrize("specs", [FULL, (*FULL, window(SIZE, 8))], ids=["full", "full and window"])
    def test_decoding_ends_as_without_it(self, function, specs):
        """Long enough that rows outgrow their hashes, and are flushed to their requests."""
        (usual, rows), (other, same_rows) = two_batches([3, 4, 5, 9, 17], function, specs)
        random = np.random.default_rng(1)
        for step in range(300):
            chosen = random.permutation(5)[: random.integers(1, 6)]
            tokens = random.choice(EDGES, len(chosen))
            if step < 200:
                usual.append_batch(rows[chosen], tokens)
                other.append_batch(same_rows[chosen], tokens)
            if step % 3:
                got = usual.allocate_batch(rows[chosen], 1, num_lookahead_tokens=step % 2)
                expected = other.allocate_batch(same_rows[chosen], 1, num_lookahead_tokens=step % 2)
                assert answer(got) == answer(expected)
            assert hashes(usual, rows) == hashes(other, same_rows)
        assert state_of(usual) == state_of(other)
        for batch, each in ((usual, rows), (other, same_rows)):
            batch.sync(each)
            batch.manager.check()
        assert state_of(usual) == state_of(other)

    def test_it_serves_most_of_that(self, monkeypatch):
        (batch, rows), _ = two_batches([9, 10, 11])
        batch.append_batch(rows, np.full(3, 7))
        served = []
        append = batch.requests.append
        monkeypatch.setattr(batch.requests, "append", lambda *given: served.append(append(*given)))
        for _ in range(100):
            batch.append_batch(rows, np.full(3, 7))
        assert len(served) < 20

    @needs_extension
    def test_covered_rows_are_served_in_c(self, monkeypatch):
        (batch, rows), _ = two_batches([9])
        batch.append_batch(rows, np.full(1, 7))
        steps = []
        allocate = batch._steps.allocate
        monkeypatch.setattr(batch._steps, "allocate", lambda *given: steps.append(1) or allocate(*given))
        for _ in range(32):
            batch.append_batch(rows, np.full(1, 7))
            assert batch.allocate_batch(rows, 1).fits.all()
        # Of four steps one begins a block, and one fills it.
        assert len(steps) == 16

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.tuples(st.integers(-2, 9), st.sampled_from([*EDGES, 2**31, -(2**31) - 1, 2**40])), max_size=6))
    def test_any_rows_and_tokens_end_as_without_it(self, chosen):
        batches = two_batches([3, 4, 9])
        ends = []
        for batch, rows in batches:
            batch.append_batch(rows, np.full(3, 7))
            which = np.array([rows[row] if 0 <= row < 3 else row for row, _ in chosen], np.int64)
            tokens = np.array([token for _, token in chosen], np.int64)
            try:
                batch.append_batch(which, tokens)
                end = None
            except KVGPUError as error:
                end = type(error), str(error)
            ends.append((end, state_of(batch), hashes(batch, rows)))
        assert ends[0] == ends[1]


@pytest.fixture
def batch():
    (batch, rows), _ = two_batches([9, 10, 11])
    batch.append_batch(rows, np.full(3, 7))
    batch.allocate_batch(rows, 1)
    assert batch.requests.usual._handle.words.any()
    return batch


class TestOdd:
    @pytest.mark.parametrize(
        ("tokens", "error"),
        [
            ([1.0, 2.0, 3.0], ArgumentTypeError),
            (np.array([True, False, True]), ArgumentTypeError),
            (np.array([1, 2]), ArgumentError),
            (np.array([[1, 2, 3]]), ArgumentError),
            (None, ArgumentTypeError),
        ],
        ids=["floats", "truth values", "too few", "a table", "None"],
    )
    def test_tokens(self, batch, tokens, error):
        with refused(batch, error):
            batch.append_batch(batch.rows.all(), tokens)

    @pytest.mark.parametrize("rows", [[0, 0, 1], [0, 1, 7], [0, 1, -1], [0, 1, 2**40]], ids=str)
    def test_rows(self, batch, rows):
        for call in (batch.append_batch, batch.allocate_batch):
            with refused(batch, ArgumentError):
                call(np.array(rows), np.full(3, 7) if call == batch.append_batch else 1)

    @pytest.mark.parametrize(
        "options",
        [
            {"num_lookahead_tokens": -1},
            {"num_lookahead_tokens": 1.5},
            {"reserved_blocks": -1},
            {"delay_cache_blocks": np.zeros(2)},
            {"full_sequence_must_fit": np.zeros(2)},
            {"stop_when_full": np.zeros(2)},
        ],
        ids=str,
    )
    def test_options(self, batch, options):
        with refused(batch):
            batch.allocate_batch(batch.rows.all(), 1, **options)

    @pytest.mark.parametrize("num_new", [0, -1, 2**31, 2**63, 1.0, True, None], ids=str)
    def test_numbers_of_tokens(self, batch, num_new):
        with refused(batch):
            batch.allocate_batch(batch.rows.all(), num_new)

    @pytest.mark.parametrize("layout", ["every other", "read only", "32 bits", "list"])
    def test_other_layouts_of_the_same_numbers(self, batch, layout):
        tokens = np.array([5, 0, 6, 0, 7, 0])[::2]
        if layout != "every other":
            tokens = tokens.copy()
        if layout == "read only":
            tokens.flags.writeable = False
        if layout == "32 bits":
            tokens = tokens.astype(np.int32)
        before = batch.rows.records["num_tokens"].sum()
        batch.append_batch(batch.rows.all(), tokens.tolist() if layout == "list" else tokens)
        assert batch.rows.records["num_tokens"].sum() == before + 3


@needs_extension
@pytest.mark.parametrize("call", ["append", "allocate"])
def test_without_memory_nothing_is_changed_or_all(batch, call):
    """Each allocation of CPython fails in turn."""
    memory = pytest.importorskip("_testcapi")
    rows, tokens, failures = batch.rows.all(), np.full(3, 7), 0
    batch.append_batch(rows, tokens)
    for nth in range(20):
        before = state_of(batch)["rows"]
        memory.set_nomemory(nth, nth + 1)
        try:
            batch.append_batch(rows, tokens) if call == "append" else batch.allocate_batch(rows, 1)
        except (MemoryError, SystemError):  # NumPy confuses the two
            failures += 1
        finally:
            memory.remove_mem_hooks()
        after = state_of(batch)["rows"]
        assert after["num_tokens"] in (before["num_tokens"], [n + 1 for n in before["num_tokens"]])
        assert after["num_computed"] in (before["num_computed"], [n + 1 for n in before["num_computed"]])
        batch.sync(rows)
        batch.rewind(rows, after["num_computed"][0] - before["num_computed"][0])
        batch.manager.check()
    assert failures > 0


class TestAround:
    def test_a_copy_appends_to_its_own_rows(self, batch):
        twin, rows = copy.deepcopy(batch), batch.rows.all()
        before = state_of(batch)
        for _ in range(30):
            twin.append_batch(rows, np.full(3, 7))
        assert state_of(batch) == before
        for _ in range(30):
            batch.append_batch(rows, np.full(3, 7))
        assert hashes(batch, rows) == hashes(twin, rows)
        assert state_of(batch)["rows"] == state_of(twin)["rows"]

    def test_rows_that_were_reserved_later_are_served(self, batch):
        batch.grow(20, 1000)
        new = batch.track([make_request("late", 9, SIZE)])
        rows = batch.rows.all()
        assert batch.allocate_batch(new, 9).fits.all()
        for _ in range(30):
            batch.append_batch(rows, np.arange(len(rows)))
            batch.allocate_batch(rows, 1)
        batch.sync(rows)
        assert [len(batch.rows.requests[row].block_hashes) for row in rows.tolist()] == [10, 10, 10, 9]
        batch.manager.check()

    def test_a_row_that_lost_its_blocks_gets_no_slots(self, batch):
        row = batch.rows.all()[:1]
        batch.manager.free(batch.rows.requests[int(row[0])])
        with refused(batch, ArgumentError, "has lost its blocks"):
            batch.allocate_batch(row, 1)

    def test_with_events_every_step_is_served_by_single_calls(self, batch):
        """They look at the request objects, and find that one has another name."""
        batch.manager.block_pool.enable_kv_cache_events = True
        rows = batch.rows.all()
        batch.rows.requests[int(rows[1])].request_id = "other"
        for _ in range(SIZE):
            batch.append_batch(rows, np.full(3, 7))
            with pytest.raises(ArgumentError, match="is now called other"):
                batch.allocate_batch(rows, 1)

    def test_slots_of_an_earlier_step_cannot_be_asked_for(self, batch):
        rows = batch.rows.all()
        batch.append_batch(rows, np.full(3, 7))
        first = batch.allocate_batch(rows[:1], 1)
        batch.append_batch(rows, np.full(3, 7))
        batch.allocate_batch(rows[1:], 1)
        with pytest.raises(ArgumentError, match="ask for the slot mapping before"):
            first.slot_mapping()

    def test_a_call_that_is_refused_leaves_slots_to_ask_for(self, batch):
        rows = batch.rows.all()
        given = batch.allocate_batch(rows[:1], 1)
        with pytest.raises(ArgumentError):
            batch.allocate_batch(np.array([7]), 1)
        assert len(given.slot_mapping()) == 1

    def test_a_call_while_another_thread_is_inside_is_refused(self, batch):
        batch.turn.holders[threading.get_ident() + 1] = None
        rows, before = batch.rows.all(), batch.rows.records.copy()
        for call in (lambda: batch.append_batch(rows, np.full(3, 7)), lambda: batch.allocate_batch(rows, 1)):
            with pytest.raises(ConcurrentUseError):
                call()
        assert (batch.rows.records == before).all()

    def test_after_an_interrupted_call_the_state_is_restored_first(self, batch, monkeypatch):
        restored = []
        monkeypatch.setattr(batch.turn, "restore", lambda: restored.append(1))
        rows = batch.rows.all()
        for call in (lambda: batch.append_batch(rows, np.full(3, 7)), lambda: batch.allocate_batch(rows, 1)):
            batch.turn.torn = True
            call()
        assert restored == [1, 1]

    def test_copies_of_hashes_on_a_device_are_told_of_new_ones(self, batch):
        rows, arena = batch.rows.all(), batch.rows.hashes.arena
        arena.copy = object()
        for _ in range(SIZE):
            batch.append_batch(rows, np.full(3, 7))
        written = arena.take_written()
        assert {place for begin, end in written for place in range(begin, end)} >= set(
            (batch.rows.records["end"][rows] - 1).tolist()
        )

    def test_a_request_that_hashes_for_itself_beside_rows_that_do(self):
        (batch, _), _ = two_batches([9, 10])
        own = make_request("own", 9, SIZE)
        own.cache_salt = "salt"
        third = batch.track([own])
        assert batch.allocate_batch(third, 9).fits.all()
        for _ in range(12):
            batch.append_batch(batch.rows.all(), np.full(3, 7))
        batch.sync()
        assert all(len(r.block_hashes) == r.num_tokens // SIZE for r in batch.rows.requests if r is not None)
