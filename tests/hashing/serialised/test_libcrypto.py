"""SHA-256 in compiled code, and hashing without it."""

import hashlib

import numpy as np
import pytest

from kvgpu.compiled.jit import jit
from kvgpu.errors import ArgumentError
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.bulk.chains import Blocks
from kvgpu.hashing.device.sha256 import refuse_long
from kvgpu.hashing.serialised import chains
from kvgpu.hashing.serialised.chains import DigestChains, Sha256Chains, message_chains
from kvgpu.hashing.serialised.libcrypto import DIGEST_BYTES, available, digest_once, length_word, padded
from kvgpu.hashing.serialised.messages import CBOR, PICKLE

SIZE = 4
PARENT = b"\x07" * 32

kinds = pytest.mark.parametrize(("kind", "function"), [(PICKLE, hashing.sha256), (CBOR, hashing.sha256_cbor)])


@pytest.fixture
def in_compiled_code():
    if not available():
        pytest.skip("libcrypto's SHA256_Transform cannot be reached from this Python")


def digest_of(message):
    """Digest a message in a buffer that is otherwise full of old bytes."""
    data = np.full(padded(len(message)), 0xA5, np.uint8)
    data[: len(message)] = np.frombuffer(message, np.uint8)
    out = np.full(DIGEST_BYTES, 0xA5, np.uint8)
    digest_once(data, len(message), out)
    return out.tobytes()


def sha256_chains(kind, function):
    return message_chains(kind, lambda data: hashlib.sha256(data).digest(), 32)


def some_blocks():
    """Two requests of 5 and 9 blocks, with different parents and extra keys."""
    tokens = [np.arange(-3, 20, dtype=np.int32), np.arange(36, dtype=np.int64) ** 12]
    extras = [None] * 5 + [("salt",)] + [("image", ("a", -4))] * 8
    return Blocks(tokens, [5, 9], 14, SIZE, [PARENT, b"short"], extras)


def hashes_one_by_one(function, blocks):
    hashes, extras = [], iter(blocks.extras)
    for tokens, count, parent in zip(blocks.tokens, blocks.counts, blocks.parents, strict=True):
        for place in range(count):
            ids = tuple(tokens[place * SIZE : (place + 1) * SIZE].tolist())
            parent = function((parent, ids, next(extras)))
            hashes.append(parent)
    return hashes


@jit
def last_word(length):
    return length_word(length)


@pytest.mark.parametrize("length", [0, 1, 31, 32, 2**29 - 1, 2**29, 2**29 + 5, 2**40 + 3, 2**60])
def test_a_message_ends_with_its_length_in_64_bits(length):
    """FIPS 180-4, section 5.1.1; from 2**29 bytes on, the upper half of the length is not 0."""
    word = int(last_word(length))
    assert word.to_bytes(8, "little") == (8 * length).to_bytes(8, "big")


@pytest.mark.parametrize("sizes", [(2**29, 16, 2), (32, 2**26, 2), (32, 16, 2**29)])
def test_what_a_device_cannot_count_is_refused_there(sizes):
    refuse_long(32, 16, 60_000)
    with pytest.raises(ArgumentError, match="on the CPU"):
        refuse_long(*sizes)


def test_a_digest_is_sha256_for_every_length(in_compiled_code):
    data = np.random.default_rng(1).bytes(300)
    wrong = [n for n in range(301) if digest_of(data[:n]) != hashlib.sha256(data[:n]).digest()]
    assert wrong == []


def test_a_digest_takes_a_long_message(in_compiled_code):
    message = np.random.default_rng(2).bytes(100_001)
    assert digest_of(message) == hashlib.sha256(message).digest()


@kinds
def test_where_compiled_code_can_hash_it_does(in_compiled_code, kind, function):
    assert type(sha256_chains(kind, function)) is Sha256Chains


@kinds
def test_without_it_hashlib_is_called(monkeypatch, kind, function):
    monkeypatch.setattr(chains, "available", lambda: False)
    assert type(sha256_chains(kind, function)) is DigestChains


@kinds
@pytest.mark.parametrize("can_hash", [True, False], ids=["libcrypto", "hashlib"])
def test_hashes_are_the_same_with_and_without_it(monkeypatch, kind, function, can_hash):
    if not can_hash:
        monkeypatch.setattr(chains, "available", lambda: False)
    blocks = some_blocks()
    keys = sha256_chains(kind, function).hashes(blocks)
    assert [key.tobytes() for key in keys] == hashes_one_by_one(function, blocks)


@kinds
@pytest.mark.parametrize("most", [1, 7, 14])
def test_messages_may_be_written_in_several_passes(monkeypatch, kind, function, most):
    monkeypatch.setattr(chains, "PASS_BLOCKS", most)
    monkeypatch.setattr(chains, "available", lambda: False)
    blocks = some_blocks()
    keys = sha256_chains(kind, function).hashes(blocks)
    assert [key.tobytes() for key in keys] == hashes_one_by_one(function, blocks)


@kinds
def test_a_serialiser_that_is_not_trusted_has_no_chains(monkeypatch, kind, function):
    monkeypatch.setattr(chains, "trusted", lambda kind: False)
    assert sha256_chains(kind, function) is None


@kinds
@pytest.mark.parametrize("can_hash", [True, False], ids=["libcrypto", "hashlib"])
def test_extra_keys_that_only_compare_equal_are_told_apart(monkeypatch, kind, function, can_hash):
    if not can_hash:
        monkeypatch.setattr(chains, "available", lambda: False)
    word, twin = ("".join(["wo", "rd"]) for _ in range(2))
    extras = [(word, word), (word, twin), (word,), (twin,), (1,), (True,), (1.0,), (), ()]
    blocks = Blocks([np.arange(36, dtype=np.int32)], [9], 9, SIZE, [PARENT], extras)
    keys = sha256_chains(kind, function).hashes(blocks)
    assert [key.tobytes() for key in keys] == hashes_one_by_one(function, blocks)
