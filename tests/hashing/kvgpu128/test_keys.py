"""The key of kvgpu128, given by the caller or by the process."""

import os
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from support.definitions.kvgpu128 import KEY, PARENT, assert_all_differ, definition

from kvgpu.environment import hash_key
from kvgpu.errors import ArgumentError, ArgumentTypeError, ConfigError
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.kvgpu128.function import Kvgpu128, process_hash

hashing.init_none_hash(hashing.sha256)


def test_equal_keys_give_equal_hashes():
    assert Kvgpu128(KEY)((PARENT, (1, 2), None)) == Kvgpu128(KEY)((PARENT, (1, 2), None))


class Raced(Kvgpu128):
    """Another thread always replaces the stored keys by fewer."""

    @property
    def _word_keys(self):
        return self.stored

    @_word_keys.setter
    def _word_keys(self, keys):
        self.stored = keys[:5]


def test_keys_are_enough_whatever_another_thread_stores():
    assert np.array_equal(Raced(KEY).word_keys(512), Kvgpu128(KEY).word_keys(512))


def test_every_bit_of_the_key_counts():
    values = [Kvgpu128(KEY)((PARENT, (1, 2), ("salt",)))]
    for bit in range(256):
        key = (int.from_bytes(KEY, "little") ^ (1 << bit)).to_bytes(32, "little")
        values.append(Kvgpu128(key)((PARENT, (1, 2), ("salt",))))
    assert len(set(values)) == 257


def test_blocks_of_other_sizes_hashed_before_do_not_matter():
    used = Kvgpu128(KEY)
    for size in (100, 1, 16, 300, 2):
        block = tuple(range(size))
        assert used((PARENT, block, None)) == Kvgpu128(KEY)((PARENT, block, None))


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_key_of_another_length_is_refused(length):
    with pytest.raises(ArgumentError):
        Kvgpu128(b"k" * length)


@pytest.mark.parametrize("key", ["k" * 32, "6b" * 32, None, 7, bytearray(32), [0] * 32])
def test_a_key_that_is_not_bytes_is_refused(key):
    with pytest.raises(ArgumentTypeError):
        Kvgpu128(key)


def test_a_key_that_is_refused_is_not_shown():
    with pytest.raises(ArgumentError) as error:
        Kvgpu128(b"mostofasecret")
    assert "mostofasecret" not in str(error.value)


# The key of a process


@pytest.mark.parametrize(
    "value", ["5e" * 31, "5e" * 33, "5e" * 31 + "5g", " " + "5e" * 32, "5e" * 32 + "\n", "\uff15e" * 32]
)
def test_a_bad_key_of_the_process_is_refused_and_not_shown(monkeypatch, value):
    monkeypatch.setenv("KVGPU_HASH_KEY", value)
    with pytest.raises(ConfigError) as error:
        hash_key()
    assert "KVGPU_HASH_KEY" in str(error.value)
    assert value.strip()[:20] not in str(error.value)


@pytest.mark.parametrize("value", ["0123456789abcdef" * 4, "0123456789ABCDEF" * 4])
def test_the_key_of_the_process_is_written_in_hexadecimal_digits(monkeypatch, value):
    monkeypatch.setenv("KVGPU_HASH_KEY", value)
    assert hash_key() == bytes.fromhex("0123456789abcdef" * 4)


def test_without_a_key_of_the_process_there_is_a_random_one(monkeypatch):
    monkeypatch.delenv("KVGPU_HASH_KEY", raising=False)
    first, second = hash_key(), hash_key()
    assert (len(first), first != second) == (32, True)


def test_the_function_by_name_hashes_under_the_key_of_the_process():
    value = (PARENT, (1, 2, 3), ("salt",))
    assert hashing.get_hash_fn_by_name("kvgpu128")(value) == process_hash()(value)


@cache
def hashes_of_a_process(key, attempt=0):
    """The hash of a block by the function of that name, and the last hash of a request, with a seed for `NONE_HASH`."""
    code = (
        "from kvgpu import Request, get_request_block_hasher; from kvgpu.hashing import functions as h; "
        "h.init_none_hash(h.kvgpu128); "
        "hasher = get_request_block_hasher(4, h.kvgpu128); "
        "request = Request('r', list(range(80)), cache_salt='s', block_hasher=hasher); "
        "print(h.hash_block_tokens(h.kvgpu128, None, [1, 2]).hex(), request.block_hashes[-1].hex())"
    )
    environment = {**os.environ, "KVGPU_HASH_KEY": key, "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_processes_of_one_key_and_seed_share_hashes():
    assert hashes_of_a_process("5e" * 32) == hashes_of_a_process("5e" * 32, attempt=1)


def none_hash_of_a_process(environment):
    code = (
        "import logging; logging.basicConfig(); from kvgpu.hashing import functions as h; "
        "h.init_none_hash(h.kvgpu128); print(h.NONE_HASH.hex())"
    )
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONHASHSEED", "KVGPU_HASH_KEY")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=kept | environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


def test_processes_of_one_key_share_hashes_without_a_seed():
    one, again, other = (none_hash_of_a_process({"KVGPU_HASH_KEY": key * 32}) for key in ("5e", "5e", "5f"))
    assert (one == again, one == other) == (True, False)


def test_processes_without_key_and_seed_share_none():
    assert none_hash_of_a_process({}) != none_hash_of_a_process({})


def test_a_key_of_its_own_gives_the_first_parent(monkeypatch):
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    monkeypatch.setattr(hashing, "NONE_HASH", hashing.NONE_HASH)
    found = []
    for key in (KEY, KEY, bytes(32)):
        hashing.init_none_hash(Kvgpu128(key))
        found.append(hashing.NONE_HASH)
    assert found[0] == found[1] != found[2]


def test_the_first_parent_of_a_key_is_as_defined():
    expected = definition().digest(b"none", b"").to_bytes(16, "little")
    assert Kvgpu128(KEY).none_hash() == expected


def test_processes_of_different_keys_share_none():
    assert_all_differ([*hashes_of_a_process("5e" * 32), *hashes_of_a_process("5f" * 32)])
