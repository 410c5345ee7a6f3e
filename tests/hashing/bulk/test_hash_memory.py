"""The memory for hashes never hands out memory in use, and reuses all other."""

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
from kvgpu.hashing.bulk import hash_memory as module
from kvgpu.hashing.bulk.hash_memory import HashMemory
from kvgpu.hashing.request_hasher import get_request_block_hasher
from kvgpu.layout import KEY_WORDS
from kvgpu.request import Request

MANY, MOST, CHUNK = 64, 400, 96


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(module, "MIN_REUSED", 4)
    monkeypatch.setattr(module, "MAX_REUSED", MANY)
    monkeypatch.setattr(module, "MAX_KNOWN", MOST)
    monkeypatch.setattr(module, "CHUNK_HASHES", CHUNK)


def address(hashes):
    return hashes.__array_interface__["data"][0]


def chunk_of(hashes):
    """The chunk that a piece was carved from."""
    return hashes.base.base.obj


def test_rows_are_contiguous_words_of_keys():
    hashes = HashMemory().take(5)
    assert (hashes.shape, hashes.dtype, hashes.flags.c_contiguous) == ((5, KEY_WORDS), np.int64, True)
    assert HashMemory().take(0).shape == (0, KEY_WORDS)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_nobody_is_handed_what_somebody_has(data):
    memory, held = HashMemory(), []
    for mark in range(data.draw(st.integers(1, 60))):
        if held and data.draw(st.booleans()):
            held.pop(data.draw(st.integers(0, len(held) - 1)))
            continue
        hashes = memory.take(data.draw(st.integers(0, MANY + 9)))
        hashes[:] = mark
        # A part, a view of a view or a view with another dtype keeps the whole piece in use.
        view = data.draw(st.sampled_from([lambda r: r, lambda r: r[1:][:3], lambda r: r.view(np.uint8)]))
        held.append((view(hashes), view(hashes).tobytes()))
        assert all(part.tobytes() == expected for part, expected in held)


def test_what_nobody_has_is_handed_out_again():
    memory = HashMemory()
    places = {address(memory.take(MANY // 2)) for _ in range(100)}
    assert len(places) == 1


def test_pieces_of_about_one_size_are_used_for_each_other():
    memory = HashMemory()
    assert len({address(memory.take(count)) for count in (49, 50, 56)}) == 1


@pytest.mark.parametrize("view", [lambda r: r, lambda r: r[3:], lambda r: r[1:][:2].view(np.uint8)])
def test_one_view_keeps_its_piece(view):
    memory = HashMemory()
    kept = view(memory.take(20))
    assert kept.base.nbytes == 20 * 8 * KEY_WORDS
    assert not any(np.shares_memory(memory.take(20), kept) for _ in range(100))


def test_small_pieces_lie_side_by_side():
    memory = HashMemory()
    held = [memory.take(20) for _ in range(9)]
    steps = np.diff([address(hashes) for hashes in held])
    assert (steps == 20 * 8 * KEY_WORDS).sum() == 6  # nine pieces in three chunks of four


def test_one_small_hash_keeps_its_chunk_and_no_other():
    memory = HashMemory()
    held = [memory.take(20) for _ in range(12)]
    chunks = [weakref.ref(chunk_of(hashes)) for hashes in held[::4]]
    kept = held[5][3:4]
    del memory, held
    gc.collect()
    assert [chunk() is None for chunk in chunks] == [True, False, True]
    assert kept.nbytes == 8 * KEY_WORDS


def test_nothing_is_used_again_where_references_are_not_counted(monkeypatch):
    monkeypatch.setattr(module, "COUNTS_REFERENCES", False)
    memory = HashMemory()
    assert memory.take(MANY // 2).base is None
    assert memory.num_hashes == 0


def test_a_piece_is_not_taken_for_free_where_references_were_counted_too_high(monkeypatch):
    monkeypatch.setattr(module, "_UNUSED_REFERENCES", module._UNUSED_REFERENCES + 1)
    memory = HashMemory()
    kept = memory.take(MANY // 2)
    kept[:] = 7
    for _ in range(10):
        memory.take(MANY // 2)[:] = 1
    assert (kept == 7).all()


def test_who_finds_another_inside_is_given_memory_of_its_own():
    memory = HashMemory()
    memory.take(20)
    with memory._lock:
        hashes = memory.take(20)
    assert hashes.base is None
    assert memory.take(20).base is not None


@settings(deadline=None, max_examples=30)
@given(counts=st.lists(st.integers(0, MANY + 9), max_size=300), keep=st.integers(1, 9))
def test_few_rows_are_kept_that_nobody_uses(counts, keep):
    """Memory not in use is at most a quarter of each piece, and the pieces that the rings know."""
    memory, held = HashMemory(), []
    for place, count in enumerate(counts):
        hashes = memory.take(count)
        if place % keep == 0:
            held.append(hashes)
        assert memory.num_hashes <= MOST
    in_use = sum(len(hashes) for hashes in held)
    pieces = {id(p): len(p) for p in (hashes if hashes.base is None else hashes.base for hashes in held)}
    assert sum(pieces.values()) <= 1.25 * in_use


def test_small_requests_between_long_ones_hold_little_more_than_their_hashes(monkeypatch):
    """Small requests must not keep large pieces alive."""
    monkeypatch.undo()
    memory = HashMemory()
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
    live = sum(request.block_hashes.keys.nbytes for request in requests)
    assert sum(held.values()) <= 1.25 * live + module.CHUNK_HASHES * 8 * KEY_WORDS
    assert memory.num_hashes * 8 * KEY_WORDS <= 1.25 * live + 2048 * 8 * KEY_WORDS


@pytest.mark.parametrize("name", ["sha256", "kvgpu128"])
def test_hashes_of_requests_stay_what_they_were(monkeypatch, name):
    """Requests come and go, and some hashes are copied, pickled or cut."""
    monkeypatch.setattr("kvgpu.hashing.kvgpu128.function.hash_memory", HashMemory())
    monkeypatch.setattr("kvgpu.hashing.serialised.chains.hash_memory", HashMemory())
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
            lambda r: BlockHashes.of_keys(r.block_hashes.keys[:5], r.block_hashes.width),
        ][step % 4]
        held.append((keep(request), expected))
        if step % 3:
            held.pop(rng.integers(len(held)))
        for hashes, expected in held:
            assert list(hashes) == expected[: len(hashes)]
