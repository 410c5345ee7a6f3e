"""Nothing beyond the tokens is read, whatever a request says, for hand-made blocks, and while a list is cut."""

import sys
import threading
from array import array
from types import SimpleNamespace

import numpy as np
import pytest
from support.hash_chains import chain
from support.hashed_requests import FUNCTIONS, by_function, drawn_tokens, unhashed

from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.hashing import capabilities as functions
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.bulk.chains import Blocks
from kvgpu.hashing.inputs.token_ids import TokenIds
from kvgpu.hashing.request_hasher import get_request_block_hasher

hashing.init_none_hash(hashing.sha256)
SIZE = 16
PARENT = hashing.BlockHash(b"p" * 32)

HOLDERS = {
    "list": list,
    "tuple": tuple,
    "TokenIds": TokenIds,
    "NumPy": np.array,
    "NumPy int32": lambda tokens: np.array(tokens, np.int32),
    "array": lambda tokens: array("q", tokens),
}
by_holder = pytest.mark.parametrize("holder", HOLDERS)
by_length = pytest.mark.parametrize("length", [0, 15, SIZE, 40 * SIZE])


def foreign(tokens, num_tokens, hashes=()):
    return SimpleNamespace(request_id="liar", all_token_ids=tokens, num_tokens=num_tokens, block_hashes=[*hashes])


@pytest.mark.parametrize("more", [1, SIZE, 10**6, 10**12, 2**63, 2**70])
@by_length
@by_holder
@by_function
def test_more_tokens_than_there_are_are_refused(name, holder, length, more):
    request = foreign(HOLDERS[holder](drawn_tokens(length)), length + more)
    good = unhashed("good", drawn_tokens(20 * SIZE))
    hasher = get_request_block_hasher(SIZE, FUNCTIONS[name])
    for call in (lambda: hasher(request), lambda: hasher.update([request]), lambda: hasher.update([good, request])):
        with pytest.raises(ArgumentError, match="request liar: num_tokens"):
            call()
    assert (request.block_hashes, len(good.block_hashes)) == ([], 0)


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (-1, ArgumentError),
        (-(2**70), ArgumentError),
        (16.0, ArgumentTypeError),
        ("16", ArgumentTypeError),
        (None, ArgumentTypeError),
        (float("nan"), ArgumentTypeError),
    ],
)
@pytest.mark.parametrize("name", ["sha256", "kvgpu128"])
def test_a_number_of_tokens_is_an_integer_from_0(name, number, error):
    request = foreign(drawn_tokens(64), number)
    with pytest.raises(error, match="num_tokens"):
        get_request_block_hasher(SIZE, FUNCTIONS[name]).update([request])
    assert request.block_hashes == []


@by_holder
@by_function
def test_fewer_tokens_than_there_are_count(name, holder):
    tokens = drawn_tokens(40 * SIZE)
    for number in (np.int64(35 * SIZE), 35 * SIZE + 7):
        request = foreign(HOLDERS[holder](tokens), number)
        found = get_request_block_hasher(SIZE, FUNCTIONS[name])(request)
        assert found == chain(FUNCTIONS[name], tokens[: 35 * SIZE], SIZE)


@by_holder
@by_function
def test_what_holds_the_tokens_does_not_count(name, holder):
    """The same for a request that has hashes already."""
    tokens = drawn_tokens(40 * SIZE)
    expected = chain(FUNCTIONS[name], tokens, SIZE)
    for have in (0, 1, 38):
        request = foreign(HOLDERS[holder](tokens), len(tokens), expected[:have])
        assert get_request_block_hasher(SIZE, FUNCTIONS[name])(request) == expected[have:]


@pytest.mark.parametrize("lacks", ["block_hashes", "all_token_ids", "num_tokens"])
def test_what_is_no_request_is_refused(lacks):
    request = foreign([1] * 20, 20)
    delattr(request, lacks)
    with pytest.raises(ArgumentTypeError, match=f"liar needs .*{lacks}"):
        get_request_block_hasher(SIZE, hashing.sha256).update([request])


@pytest.mark.parametrize("requests", [None, 5, unhashed("r", [1])], ids=["None", "number", "one"])
def test_requests_come_in_a_list(requests):
    with pytest.raises(ArgumentTypeError, match="requests"):
        get_request_block_hasher(SIZE, hashing.sha256).update(requests)


def test_requests_may_come_from_any_iterable():
    requests = [unhashed(name, drawn_tokens(40)) for name in "ab"]
    get_request_block_hasher(SIZE, hashing.sha256).update(iter(requests))
    assert [len(request.block_hashes) for request in requests] == [2, 2]


def test_a_request_that_comes_twice_is_refused():
    request = unhashed("r", drawn_tokens(400))
    with pytest.raises(ArgumentError, match="twice"):
        get_request_block_hasher(SIZE, hashing.sha256).update([request, request])
    assert len(request.block_hashes) == 0


# Hand-made blocks

TOKENS = [np.arange(160, dtype=np.int32), np.arange(320, dtype=np.int32)]
GOOD = Blocks(TOKENS, [10, 20], 30, SIZE, [PARENT, PARENT], None)
LINES = np.arange(320, dtype=np.int32).reshape(2, 160)
BAD = {
    "one block too many": GOOD._replace(counts=[11, 20], total=31),
    "very many": GOOD._replace(counts=[10, 2**40], total=10 + 2**40),
    "so many that the product is small": GOOD._replace(counts=[10, 2**62], total=10 + 2**62),
    "beyond 64 bits": GOOD._replace(counts=[10, 2**64], total=10 + 2**64),
    "a count below 0": GOOD._replace(counts=[-1, 20], total=19),
    "a total below 0": GOOD._replace(counts=[-1, -1], total=-2),
    "a count that is none": GOOD._replace(counts=[10.0, 20], total=30),
    "another total": GOOD._replace(total=31),
    "a large size": GOOD._replace(size=17),
    "a size below 0": GOOD._replace(size=-16),
    "a size that is none": GOOD._replace(size=16.0),
    "too few parents": GOOD._replace(parents=[PARENT]),
    "parents of another kind": GOOD._replace(parents=[PARENT, "p"]),
    "too few counts": GOOD._replace(counts=[30]),
    "too few extra keys": GOOD._replace(extras=[None] * 29),
    "lists": GOOD._replace(tokens=[each.tolist() for each in TOKENS]),
    "floats": GOOD._replace(tokens=[each.astype(np.float32) for each in TOKENS]),
    "gaps": GOOD._replace(tokens=[np.arange(640, dtype=np.int32)[::2], TOKENS[1]]),
    "backwards": GOOD._replace(tokens=[TOKENS[0][::-1], TOKENS[1]]),
    "two axes": GOOD._replace(tokens=[TOKENS[0].reshape(10, 16), TOKENS[1]]),
    "big-endian": GOOD._replace(tokens=[each.astype(">i4") for each in TOKENS]),
    "lines too short": GOOD._replace(tokens=LINES),
    "lines with gaps": GOOD._replace(tokens=np.zeros((2, 640), np.int32)[:, ::2]),
    "one line": GOOD._replace(tokens=np.arange(480, dtype=np.int32)),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", ["sha256", "xxhash_cbor", "kvgpu128"])
def test_blocks_by_hand_that_do_not_fit_are_refused(name, bad):
    chains = functions.chains_of(FUNCTIONS[name])
    with pytest.raises(ArgumentError):
        chains.hashes(BAD[bad])
    assert len(chains.hashes(GOOD)) == 30
    assert len(chains.hashes(GOOD._replace(tokens=LINES, counts=[10, 3], total=13))) == 13


@pytest.mark.parametrize(
    ("tokens", "counts", "parents"),
    [
        (LINES, [10, 11], [None, None]),
        (LINES, [10, -1], [None, None]),
        (LINES, [10], [None, None]),
        (LINES, [10, 10], [None]),
        (LINES.tolist(), [10, 10], [None, None]),
        (LINES, [10, 2**62], [None, None]),
    ],
)
@pytest.mark.parametrize("function", [*FUNCTIONS.values(), lambda value: b"h" * 16])
def test_chains_that_do_not_fit_are_refused(function, tokens, counts, parents):
    with pytest.raises(ArgumentError):
        get_request_block_hasher(SIZE, function).chained(tokens, counts, parents)


# Threads


@pytest.mark.parametrize("name", ["sha256", "xxhash", "kvgpu128", "own"])
def test_a_list_that_is_cut_while_it_is_hashed_gives_hashes_of_its_tokens_or_none(name):
    """All tokens are 7, so every hash belongs to a known chain."""
    own = hashing.sha256_cbor if name == "own" else FUNCTIONS[name]
    function = (lambda value: own(value)) if name == "own" else own
    blocks = 40
    expected = chain(own, [7] * (blocks * SIZE), SIZE)
    tokens, done, outcomes = [7] * (blocks * SIZE), threading.Event(), set()

    def cut():
        while not done.is_set():
            del tokens[3:]
            tokens.extend([7] * (blocks * SIZE - 3))

    class Request:
        request_id, all_token_ids, block_hashes = "cut", tokens, ()

        @property
        def num_tokens(self):
            return len(tokens)

    hasher, thread = get_request_block_hasher(SIZE, function), threading.Thread(target=cut)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(300 if name == "own" else 2000):
            try:
                found = hasher(Request())
            except ArgumentError:
                outcomes.add("refused")
            else:
                outcomes.add(len(found))
                assert found == expected[: len(found)]
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert outcomes <= {0, blocks, "refused"}
