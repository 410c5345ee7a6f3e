"""Speck128/256 gives the published test vector, and can be inverted."""

import numba
import numpy as np
import pytest

from kvgpu.hashing.kvgpu128.speck import KEY_BYTES, LANES, ROUNDS, decrypt, encrypt_lanes, round_keys

# Test vector of appendix C of the paper.
KEY_WORDS = "1f1e1d1c1b1a1918 1716151413121110 0f0e0d0c0b0a0908 0706050403020100"
PLAIN = (0x65736F6874206E49, 0x202E72656E6F6F70)
CIPHER = (0x4109010405C0F53E, 0x4EEEB48D9C188F43)

KEY = bytes.fromhex(KEY_WORDS.replace(" ", ""))[::-1]

EDGES = [0, 1, 2**63 - 1, 2**63, 2**64 - 1]


@numba.njit
def encrypt_from(highs, lows, place, keys):
    encrypt_lanes(highs, lows, place, keys)


@numba.njit
def decrypt_all(blocks, keys):
    for i in range(len(blocks)):
        blocks[i, 0], blocks[i, 1] = decrypt(blocks[i, 0], blocks[i, 1], keys)


def encrypted(blocks, key=KEY):
    given = np.array(blocks, np.uint64)
    highs, lows = np.zeros((2, len(given) + LANES), np.uint64)
    highs[: len(given)], lows[: len(given)] = given.T
    for place in range(0, len(given), LANES):
        encrypt_from(highs, lows, place, round_keys(key))
    return np.stack([highs, lows], 1)[: len(given)]


def decrypted(blocks, key=KEY):
    out = np.array(blocks, np.uint64)
    decrypt_all(out, round_keys(key))
    return out


def some_blocks():
    drawn = np.random.default_rng(1).integers(0, 2**64 - 1, (500, 2), np.uint64, endpoint=True)
    edges = np.array([(high, low) for high in EDGES for low in EDGES], np.uint64)
    return np.concatenate([drawn, edges])


def test_the_published_vector_is_encrypted():
    assert encrypted([PLAIN]).tolist() == [list(CIPHER)]


def test_the_published_vector_is_decrypted():
    assert decrypted([CIPHER]).tolist() == [list(PLAIN)]


@pytest.mark.parametrize("place", [0, 1, 7, LANES])
def test_blocks_outside_the_lanes_stay_as_they_are(place):
    highs, lows = np.arange(1, 4 * LANES + 1, dtype=np.uint64).reshape(2, -1).copy()
    before = highs.copy(), lows.copy()
    encrypt_from(highs, lows, place, round_keys(KEY))
    others = np.delete(np.arange(2 * LANES), np.arange(place, place + LANES))
    assert np.array_equal(highs[others], before[0][others])
    assert np.array_equal(lows[others], before[1][others])
    assert (highs[place : place + LANES] != before[0][place : place + LANES]).all()


def test_there_is_a_key_for_each_round():
    assert (round_keys(KEY).dtype, round_keys(KEY).shape) == (np.uint64, (ROUNDS,))


def test_decrypting_undoes_encrypting_under_any_key():
    for seed in range(10):
        key = np.random.default_rng(seed).bytes(KEY_BYTES)
        assert np.array_equal(decrypted(encrypted(some_blocks(), key), key), some_blocks())


def test_encrypting_undoes_decrypting():
    assert np.array_equal(encrypted(decrypted(some_blocks())), some_blocks())


def test_every_byte_of_the_key_counts():
    results = {encrypted([PLAIN]).tobytes()}
    for place in range(KEY_BYTES):
        other = bytearray(KEY)
        other[place] ^= 0x80
        results.add(encrypted([PLAIN], bytes(other)).tobytes())
    assert len(results) == KEY_BYTES + 1
