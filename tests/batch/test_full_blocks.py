"""Blocks that rows fill: hashed as their requests would hash them, whoever does it."""

import hashlib

import numpy as np
import pytest
from support.batches import make_batch, refused, requests_of
from support.hash_chains import chain
from support.hashed_requests import EDGES, FUNCTIONS, WIDE_EDGES, drawn_tokens, kinds_of_extras
from support.managers import full, make_request

from kvgpu.batch.rows.pending_tokens import SPARE
from kvgpu.errors import ArgumentError
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.request_hasher import get_request_block_hasher
from kvgpu.request import Request

SIZE = 4


def unknown(data):
    """A hash function that has no chains."""
    return hashlib.md5(repr(data).encode()).digest()


EVERY = {**FUNCTIONS, "unknown": unknown}
by_function = pytest.mark.parametrize("function", EVERY.values(), ids=EVERY)


class Foreign:
    """A request of another engine: its hashes are a list, and it hashes for itself."""

    def __init__(self, request_id, tokens):
        self.request_id, self.all_token_ids, self.block_hashes = request_id, list(tokens), []
        self.skip_reading_prefix_cache = False
        self.append_output_token_ids([])

    @property
    def num_tokens(self):
        return len(self.all_token_ids)

    def append_output_token_ids(self, tokens):
        self.all_token_ids += tokens
        self.block_hashes += chain(hashing.sha256, self.all_token_ids, SIZE)[len(self.block_hashes) :]


class Pairs:
    """Requests in a batch, and twins that are given the same tokens one by one.

    Args:
        make: Makes a request from a name and tokens.
        prompts: Tokens of each.
    """

    def __init__(self, make, prompts, max_hashes=4000):
        self.batch = make_batch(full(SIZE), max_requests=len(prompts), max_hashes=max_hashes)
        self.requests = [make(f"r{i}", tokens) for i, tokens in enumerate(prompts)]
        self.twins = [make(f"t{i}", tokens) for i, tokens in enumerate(prompts)]
        self.rows = self.batch.track(self.requests)

    def append(self, tokens):
        """Tokens of each request."""
        flat = np.array([token for part in tokens for token in part], np.int64)
        self.batch.append_batch(self.rows, flat, [len(part) for part in tokens])
        for twin, part in zip(self.twins, tokens, strict=True):
            twin.append_output_token_ids(part)

    def append_to_all(self, *tokens):
        self.append([list(tokens)] * len(self.twins))

    def track_again(self):
        self.batch.untrack(self.rows)
        self.rows = self.batch.track(self.requests)

    def extend(self):
        """Requests are given a token beside the batch."""
        self.batch.sync()
        for request in (*self.requests, *self.twins):
            request.append_output_token_ids([9])
        self.batch.extend()

    def check_rows(self):
        rows = self.batch.rows
        assert [list(rows.hashes.of(row)) for row in self.rows.tolist()] == [
            list(twin.block_hashes) for twin in self.twins
        ]
        assert rows.num_tokens[self.rows].tolist() == [twin.num_tokens for twin in self.twins]

    def check_requests(self):
        self.batch.sync()
        for request, twin in zip(self.requests, self.twins, strict=True):
            assert list(request.all_token_ids) == list(twin.all_token_ids)
            assert list(request.block_hashes) == list(twin.block_hashes)

    def check(self):
        self.check_rows()
        self.check_requests()


def request_maker(function, source=list, lookahead=0, **attributes):
    hasher = get_request_block_hasher(SIZE, function, lookahead)
    return lambda name, tokens: Request(name, source(tokens), block_hasher=hasher, **attributes)


def serve(pairs, rng, edges, steps=30):
    """Random appends, and in between what makes requests get their tokens."""
    for _ in range(steps):
        most = rng.choice([1, 1, 9, SPARE + 20], p=[0.4, 0.2, 0.35, 0.05])
        pairs.append([rng.choice(edges, rng.integers(0, most + 1)).tolist() for _ in pairs.twins])
        pairs.check_rows()
        for call in (pairs.batch.sync, pairs.track_again, pairs.extend):
            if rng.random() < 0.15:
                call()
                pairs.check_rows()
    pairs.check_requests()


def edges_of(name):
    return EDGES if "kvgpu128" in name or name == "a key of its own" else EDGES + WIDE_EDGES


@pytest.mark.parametrize("source", [list, np.array])
@pytest.mark.parametrize("name", EVERY)
def test_any_appends_are_hashed_as_by_the_requests(name, source):
    rng = np.random.default_rng(len(name))
    prompts = [drawn_tokens(count, seed=count) for count in (1, 2, 3, 4, 5, 8, 11, 30)] * 3
    serve(Pairs(request_maker(EVERY[name], source), prompts, 20_000), rng, edges_of(name))


@pytest.mark.parametrize("lookahead", [1, 5])
@pytest.mark.parametrize("name", ["sha256", "sha256_cbor", "xxhash", "kvgpu128", "unknown"])
def test_blocks_with_look_ahead_are_hashed_as_by_the_requests(name, lookahead):
    """Such a block is full before it has a hash, so the requests hash."""
    rng = np.random.default_rng(lookahead)
    prompts = [drawn_tokens(count, seed=count) for count in (1, 3, 4, 5, 8, 9, 11, 30)]
    serve(Pairs(request_maker(EVERY[name], list, lookahead), prompts, 20_000), rng, edges_of(name))


@pytest.mark.parametrize("kind", ["salt", "LoRA", "items", "an item in the middle"])
@by_function
def test_extra_keys_enter_hashes(function, kind):
    attributes = kinds_of_extras(SIZE, 6)[kind]
    pairs = Pairs(request_maker(function, **attributes), [range(3), range(10)])
    for token in range(20):
        pairs.append_to_all(token)
    pairs.check()


def test_embeddings_enter_hashes():
    make = request_maker(hashing.sha256, prompt_embeds=np.arange(20.0).reshape(-1, 2))
    pairs = Pairs(make, [range(10)])
    pairs.append_to_all(*range(8))
    pairs.check()


def test_requests_of_other_engines_hash_for_themselves():
    pairs = Pairs(Foreign, [range(3), range(4), range(9)])
    serve(pairs, np.random.default_rng(1), EDGES)


def test_requests_of_several_kinds_are_served_together():
    hashers = [get_request_block_hasher(SIZE, hashing.sha256) for _ in range(2)]

    def make(name, tokens):
        if name.endswith("0"):
            return Foreign(name, tokens)
        salt = {"cache_salt": "salt"} if name.endswith("1") else {}
        hasher = hashers[int(name[1:]) % 2]
        return Request(name, list(tokens), block_hasher=hasher, **salt)

    prompts = [range(i, i + 3 + i % 4) for i in range(20)]
    serve(Pairs(make, prompts, 20_000), np.random.default_rng(2), EDGES)


@pytest.mark.parametrize("hasher_size", [SIZE // 2, 2 * SIZE])
def test_a_hasher_of_another_block_size_is_left_to_its_request(hasher_size):
    def make(name, tokens):
        hasher = get_request_block_hasher(hasher_size, hashing.sha256)
        return Request(name, list(tokens), block_hasher=hasher)

    pairs = Pairs(make, [range(3), range(9)])
    for token in range(20):
        pairs.append_to_all(token)
    pairs.batch.sync()
    pairs.batch.extend()
    pairs.check()


def test_a_hasher_that_is_any_function_is_called_with_the_request():
    def make(name, tokens):
        return Request(name, list(tokens), block_hasher=lambda r: hasher(r))

    hasher = get_request_block_hasher(SIZE, hashing.sha256)
    pairs = Pairs(make, [range(3), range(9)])
    for token in range(20):
        pairs.append_to_all(token)
    pairs.check()


@pytest.mark.parametrize("odd", [True, np.int64(3), 2**70], ids=["bool", "numpy", "long"])
def test_odd_tokens_of_a_prompt_are_hashed_as_they_are(odd):
    pairs = Pairs(request_maker(hashing.sha256), [[1, 2, odd], [1, 2, 3, 4, odd]])
    pairs.append_to_all(7, 8, 9, 10)
    pairs.check()


@by_function
def test_a_block_is_hashed_once(monkeypatch, function):
    """The request takes over what its row has."""
    batch = make_batch(full(SIZE))
    row = batch.track([make_request("r", 3, SIZE, function)])
    batch.append_batch(row, [1, 2, 3, 4, 5], [5])
    (request,) = requests_of(batch)
    monkeypatch.setattr(request.block_hasher, "hash_fn", None)
    batch.sync()
    assert list(request.block_hashes) == chain(function, [0, 1, 2, 1, 2, 3, 4, 5], SIZE)


@pytest.mark.parametrize("max_hashes", [3 * 35, 4 * 64], ids=["packed", "moved"])
def test_hashes_stay_when_rows_outgrow_their_pieces(max_hashes):
    pairs = Pairs(request_maker(hashing.sha256), [range(3), range(4), range(9)], max_hashes)
    for token in range(32 * SIZE):
        pairs.append_to_all(token)
        pairs.check_rows()
    pairs.check_requests()


def test_appending_goes_on_after_growing():
    pairs = Pairs(request_maker(hashing.sha256), [range(3), range(6)])
    pairs.append_to_all(1, 2, 3, 4)
    pairs.batch.grow(5, 9000)
    pairs.append_to_all(5, 6, 7, 8)
    pairs.check()


class TestErrors:
    """Nothing is changed, not even for rows that were served before the bad one."""

    @staticmethod
    def batch(function):
        batch = make_batch(full(SIZE))
        functions = [hashing.sha256, hashing.sha256, function]
        batch.track([make_request(f"r{i}", 3, SIZE, each) for i, each in enumerate(functions)])
        return batch

    def test_an_error_of_a_hash_function(self):
        def fails(data):
            raise ZeroDivisionError("on purpose")

        batch = self.batch(fails)
        with refused(batch, ZeroDivisionError):
            batch.append_batch(batch.rows.all(), [7, 7, 7])
        batch.append_batch(batch.rows.all()[:2], [8, 8])
        hashes = chain(hashing.sha256, [0, 1, 2, 8], SIZE)
        assert [list(batch.rows.hashes.of(row)) for row in (0, 1, 2)] == [hashes, hashes, []]

    @pytest.mark.parametrize("width", [8, 16, 33])
    def test_a_hash_of_another_width(self, width):
        batch = self.batch(lambda data: bytes(width))
        with refused(batch, ArgumentError, "16"):
            batch.append_batch(batch.rows.all(), [7, 7, 7])
