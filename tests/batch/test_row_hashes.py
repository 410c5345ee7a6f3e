"""Hashes that rows have: where they lie in the arena, and what a row and its request get from each other."""

import pytest
from support.batches import make_batch, requests_of
from support.hash_chains import chain
from support.managers import full, make_request

from kvgpu.hashing import functions as hashing
from kvgpu.hashing import map_keys

SIZE = 4


def test_hashes_of_a_request_outlive_its_row():
    batch = make_batch(full(SIZE))
    request = make_request("r", 3, SIZE)
    row = batch.track([request])
    batch.append_batch(row, [1])
    batch.untrack(row)
    batch.track([make_request("other", [5] * 8, SIZE)])
    assert list(request.block_hashes) == chain(hashing.sha256, [0, 1, 2, 1], SIZE)


def with_a_list(*args):
    """A request whose hashes are a list, which a row copies."""
    request = make_request(*args)
    request.block_hashes = list(request.block_hashes)
    return request


def test_the_first_hash_of_a_row_finds_room_in_a_full_arena():
    """There is a gap that is used again after packing only."""
    batch = make_batch(full(SIZE), max_hashes=12)
    gap, other = batch.track([with_a_list("gap", 9 * SIZE, SIZE), with_a_list("other", 2 * SIZE, SIZE)])
    (new,) = batch.track([make_request("new", 3, SIZE)])
    batch.untrack([gap])
    batch.append_batch([new], [7, 7, 7, 7, 7], [5])
    assert batch.rows.hashes.epoch == 1
    tokens = [0, 1, 2, 7, 7, 7, 7, 7]
    assert list(batch.rows.hashes.of(new)) == chain(hashing.sha256, tokens, SIZE)
    assert list(batch.rows.hashes.of(other)) == chain(hashing.sha256, range(2 * SIZE), SIZE)


@pytest.mark.parametrize(
    ("held", "make"), [(3, with_a_list), (8, with_a_list), (8, make_request)], ids=["in place", "moved", "lent"]
)
def test_who_copies_the_arena_is_told_of_new_hashes(held, make):
    """All that a row has is among what was written since its hashes were copied, or in its old place."""
    batch = make_batch(full(SIZE))
    rows = batch.track([make(name, held * SIZE, SIZE) for name in "ab"])
    copy = batch.rows.hashes.arena.copy = batch.rows.hashes.arena.words.copy()
    batch.append_batch(rows, [*range(SIZE)] * 2, [SIZE, SIZE])
    words = batch.rows.hashes.arena.words
    for begin, end in batch.rows.hashes.arena.take_written():
        copy[begin:end] = words[begin:end]
    for begin, end in batch.rows.records[["begin", "end"]][rows].tolist():
        assert end - begin == held + 1
        assert (copy[begin:end] == words[begin:end]).all()


def test_a_row_is_given_to_a_request_of_another_kind():
    batch = make_batch(full(SIZE), max_requests=1)
    for salt in (None, "salt", None):
        request, twin = (make_request(name, 3, SIZE, cache_salt=salt) for name in "rt")
        row = batch.track([request])
        batch.append_batch(row, [7, 8], [2])
        twin.append_output_token_ids([7, 8])
        assert list(batch.rows.hashes.of(0)) == list(twin.block_hashes)
        batch.untrack(row)


def test_a_request_that_was_given_tokens_beside_its_row_has_the_last_word():
    batch = make_batch(full(SIZE))
    (row,) = rows = batch.track([make_request("r", 3, SIZE)])
    batch.append_batch(rows, [7, 8], [2])
    (request,) = requests_of(batch)
    request.append_output_token_ids([5, 6])
    batch.extend()
    assert request.all_token_ids == [0, 1, 2, 5, 6, 7, 8]
    assert list(batch.rows.hashes.of(row)) == chain(hashing.sha256, request.all_token_ids, SIZE)


def test_tokens_given_beside_a_row_before_its_first_count():
    batch = make_batch(full(SIZE))
    rows = batch.track([make_request("r", 1, SIZE)])
    (request,) = requests_of(batch)
    request.append_output_token_ids([5])
    batch.append_batch(rows, [7, 8, 9], [3])
    assert request.all_token_ids == [0, 5, 7, 8, 9]
    assert batch.rows.num_tokens[rows].tolist() == [5]


def test_extending_gives_a_request_what_its_row_has_ahead():
    batch = make_batch(full(SIZE))
    rows = batch.track([make_request("r", 3, SIZE)])
    batch.append_batch(rows, [7])
    batch.extend()
    (request,) = requests_of(batch)
    assert list(request.block_hashes) == chain(hashing.sha256, [0, 1, 2, 7], SIZE)


def test_a_prefix_is_found_by_hashes_that_the_request_has_not_got():
    """Also where single lookups answer, because a key was entered by hand."""
    batch = make_batch(full(SIZE))
    manager = batch.manager
    cached = batch.track([make_request("cached", 8, SIZE)])
    batch.allocate_batch(cached, 8)
    row = batch.track([make_request("r", 5, SIZE)])
    batch.append_batch(row, [5, 6, 7, 8], [4])
    manager.block_pool.cached_block_hash_to_block.insert(
        map_keys.make_block_hash_with_group_id(hashing.BlockHash(bytes(48)), 0), manager.block_pool.blocks[50]
    )
    assert manager.block_pool.prefix_cache.map.extras
    assert batch.match(row).num_tokens.tolist() == [8]


def test_a_row_that_has_lost_its_hashes_keeps_its_piece_when_the_arena_is_packed():
    batch = make_batch(full(SIZE), max_hashes=40)
    short = make_request("short", 3, SIZE)
    rows = batch.track([short])
    batch.append_batch(rows, [7])
    other = make_request("other", list(range(200, 200 + 8 * SIZE)), SIZE)
    row_of_other = batch.track([other])
    short.append_output_token_ids(9)
    batch.sync(rows)
    long = make_request("long", list(range(300, 300 + 28 * SIZE)), SIZE)
    row_of_long = batch.track([long])
    batch.extend(rows)
    for row, request in ((rows, short), (row_of_other, other), (row_of_long, long)):
        assert list(batch.rows.hashes.of(row[0])) == list(request.block_hashes)
