"""Memory of hashes: nobody is handed what somebody has, and what nobody has is handed out again."""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvgpu.hashing import functions as hashing
from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.hashing.bulk import hash_memory as row_memory
from kvgpu.hashing.bulk.hash_memory import RowMemory
from kvgpu.hashing.request_hasher import get_request_block_hasher
from kvgpu.layout import KEY_WORDS
from kvgpu.request import Request

MANY, MOST, CHUNK = 64, 400, 96


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(row_memory, "FEW_ROWS", 4)
    monkeypatch.setattr(row_memory, "MANY_ROWS", MANY)
    monkeypatch.setattr(row_memory, "MOST_ROWS", MOST)
    monkeypatch.setattr(row_memory, "CHUNK_ROWS", CHUNK)


def address(rows):
    return rows.__array_interface__["data"][0]


def chunk_of(rows):
    """The array that a piece was carved from."""
    return rows.base.base.obj


def test_rows_are_contiguous_words_of_keys():
    rows = RowMemory().take(5)
    assert (rows.shape, rows.dtype, rows.flags.c_contiguous) == ((5, KEY_WORDS), np.int64, True)
    assert RowMemory().take(0).shape == (0, KEY_WORDS)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_nobody_is_handed_what_somebody_has(data):
    memory, held = RowMemory(), []
    for mark in range(data.draw(st.integers(1, 60))):
        if held and data.draw(st.booleans()):
            held.pop(data.draw(st.integers(0, len(held) - 1)))
            continue
        rows = memory.take(data.draw(st.integers(0, MANY + 9)))
        rows[:] = mark
        # Who keeps a part, a view of a view or a view of other items keeps it all.
        view = data.draw(st.sampled_from([lambda r: r, lambda r: r[1:][:3], lambda r: r.view(np.uint8)]))
        held.append((view(rows), view(rows).tobytes()))
        assert all(part.tobytes() == expected for part, expected in held)


def test_what_nobody_has_is_handed_out_again():
    memory = RowMemory()
    places = {address(memory.take(MANY // 2)) for _ in range(100)}
    assert len(places) == 1


def test_pieces_of_about_one_size_are_used_for_each_other():
    memory = RowMemory()
    assert len({address(memory.take(count)) for count in (49, 50, 56)}) == 1


@pytest.mark.parametrize("view", [lambda r: r, lambda r: r[3:], lambda r: r[1:][:2].view(np.uint8)])
def test_one_view_keeps_its_piece(view):
    memory = RowMemory()
    kept = view(memory.take(20))
    assert kept.base.nbytes == 20 * 8 * KEY_WORDS
    assert not any(np.shares_memory(memory.take(20), kept) for _ in range(100))


def test_small_pieces_lie_side_by_side():
    memory = RowMemory()
    held = [memory.take(20) for _ in range(9)]
    steps = np.diff([address(rows) for rows in held])
    assert (steps == 20 * 8 * KEY_WORDS).sum() == 6  # three chunks of four pieces, the last one begun


def test_one_small_hash_keeps_its_chunk_and_no_other():
    memory = RowMemory()
    held = [memory.take(20) for _ in range(12)]
    chunks = [weakref.ref(chunk_of(rows)) for rows in held[::4]]
    kept = held[5][3:4]
    del memory, held
    gc.collect()
    assert [chunk() is None for chunk in chunks] == [True, False, True]
    assert kept.nbytes == 8 * KEY_WORDS


def test_nothing_is_used_again_where_references_are_not_counted(monkeypatch):
    monkeypatch.setattr(row_memory, "COUNTS_REFERENCES", False)
    memory = RowMemory()
    assert memory.take(MANY // 2).base is None
    assert memory.num_rows == 0


def test_a_piece_is_not_taken_for_free_where_references_were_counted_too_high(monkeypatch):
    monkeypatch.setattr(row_memory, "_OWN", row_memory._OWN + 1)
    memory = RowMemory()
    kept = memory.take(MANY // 2)
    kept[:] = 7
    for _ in range(10):
        memory.take(MANY // 2)[:] = 1
    assert (kept == 7).all()


def test_who_finds_another_inside_is_given_memory_of_its_own():
    memory = RowMemory()
    memory.take(20)
    with memory._lock:
        rows = memory.take(20)
    assert rows.base is None
    assert memory.take(20).base is not None


@settings(deadline=None, max_examples=30)
@given(counts=st.lists(st.integers(0, MANY + 9), max_size=300), keep=st.integers(1, 9))
def test_few_rows_are_kept_that_nobody_uses(counts, keep):
    """All that is held beside what is in use: a quarter more in each piece, and what the rings know."""
    memory, held = RowMemory(), []
    for place, count in enumerate(counts):
        rows = memory.take(count)
        if place % keep == 0:
            held.append(rows)
        assert memory.num_rows <= MOST
    in_use = sum(len(rows) for rows in held)
    pieces = {id(p): len(p) for p in (rows if rows.base is None else rows.base for rows in held)}
    assert sum(pieces.values()) <= 1.25 * in_use


def test_small_requests_between_long_ones_hold_little_more_than_their_hashes(monkeypatch):
    """Each of them once kept 4 MB."""
    monkeypatch.undo()
    memory = RowMemory()
    monkeypatch.setattr("kvgpu.hashing.serialised.chains.hash_memory", memory)
    hashing.init_none_hash(hashing.sha256)
    hasher = get_request_block_hasher(16, hashing.sha256)
    long, small, held = np.arange(16 * 2000), np.arange(16 * 17), {}
    requests = []
    for place in range(60):
        Request("long", long, block_hasher=hasher)
        requests.append(Request(f"r{place}", small, block_hasher=hasher))
        chunk = chunk_of(requests[-1].block_hashes.storage)
        held[id(chunk)] = chunk.nbytes
    live = sum(request.block_hashes.rows.nbytes for request in requests)
    assert sum(held.values()) <= 1.25 * live + row_memory.CHUNK_ROWS * 8 * KEY_WORDS
    assert memory.num_rows * 8 * KEY_WORDS <= 1.25 * live + 2048 * 8 * KEY_WORDS


@pytest.mark.parametrize("name", ["sha256", "kvgpu128"])
def test_hashes_of_requests_stay_what_they_were(monkeypatch, name):
    """Requests come and go; copies, pickled ones and those that have grown are like the others."""
    monkeypatch.setattr("kvgpu.hashing.kvgpu128.function.hash_memory", RowMemory())
    monkeypatch.setattr("kvgpu.hashing.serialised.chains.hash_memory", RowMemory())
    hashing.init_none_hash(hashing.sha256)
    hasher = get_request_block_hasher(4, hashing.get_hash_fn_by_name(name))
    rng, held = np.random.default_rng(0), []
    for step in range(200):
        request = Request(f"r{step}", rng.integers(0, 9, 4 * 11), block_hasher=hasher)
        expected = list(request.block_hashes)
        keep = [
            lambda r: r.block_hashes,
            lambda r: copy.copy(r.block_hashes),
            lambda r: pickle.loads(pickle.dumps(r.block_hashes)),
            lambda r: BlockHashes.of_rows(r.block_hashes.rows[:5], r.block_hashes.width),
        ][step % 4]
        held.append((keep(request), expected))
        if step % 3:
            held.pop(rng.integers(len(held)))
        for hashes, expected in held:
            assert list(hashes) == expected[: len(hashes)]
