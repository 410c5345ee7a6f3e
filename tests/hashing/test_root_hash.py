"""The hash in front of every chain, by behaviour (fact B1)."""

import logging
import os
import subprocess
import sys

import pytest

from kvgpu.config.behaviour import BEHAVIOUR_0_33
from kvgpu.errors import ArgumentTypeError, UnknownNameError
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.kvgpu128.function import Kvgpu128

FIXED = {
    "sha256": "066b1e8987e027138e98701c46128929378935f9b6cd1549105ae6b4f0d71198",
    "sha256_cbor": "9bd96a485ad84efdafb72ee48a1d7a69bcead0f8f0433173941b276b9581eef0",
}
CONSTRUCTIBLE = ["xxhash", "xxhash_cbor"]


@pytest.fixture
def root(monkeypatch):
    """Initialise `NONE_HASH` for one test, under a seed or without, and return it."""
    monkeypatch.setattr(hashing, "NONE_HASH", hashing.BlockHash(b"\x01" * 32), raising=False)

    def choose(function, behaviour="0.33", seed=None):
        if seed is None:
            monkeypatch.delenv("PYTHONHASHSEED", raising=False)
        else:
            monkeypatch.setenv("PYTHONHASHSEED", seed)
        hashing.init_none_hash(function, behaviour)
        return hashing.NONE_HASH

    return choose


@pytest.mark.parametrize("name", FIXED)
def test_cryptographic_functions_begin_with_a_fixed_hash(root, name, caplog):
    with caplog.at_level(logging.WARNING):
        assert root(hashing.get_hash_fn_by_name(name)).hex() == FIXED[name]
    assert not caplog.records


def test_a_seed_wins(root):
    expected = "1973e23848344dc43a988a9b478663803cfffe1243480253f9a3cf004b14aa7c"
    assert root(hashing.sha256, seed="0").hex() == expected
    assert root(hashing.xxhash, seed="0") == hashing.xxhash("0")


@pytest.mark.parametrize("name", CONSTRUCTIBLE)
def test_functions_with_known_collisions_begin_with_a_random_hash_and_warn(root, name, caplog):
    with caplog.at_level(logging.WARNING):
        drawn = {root(hashing.get_hash_fn_by_name(name)) for _ in range(4)}
    assert (len(drawn), {len(each) for each in drawn}) == (4, {16})
    assert (
        f"PYTHONHASHSEED is not set: block hashes differ between processes. Set it to a common value to share hashes \
of {name}."
        in caplog.text
    )


@pytest.mark.parametrize("name", CONSTRUCTIBLE)
def test_functions_with_known_collisions_do_not_warn_of_a_seed(root, name, caplog):
    with caplog.at_level(logging.WARNING):
        root(hashing.get_hash_fn_by_name(name), seed="7")
    assert not caplog.records


def test_the_key_of_kvgpu128_decides_in_every_behaviour(root):
    own = Kvgpu128(bytes(range(32)))
    assert root(own, "0.23") == root(own, "0.33") == own.none_hash()


def test_a_behaviour_may_be_given_as_it_is(root):
    assert root(hashing.sha256, BEHAVIOUR_0_33).hex() == FIXED["sha256"]


def test_without_a_behaviour_it_is_random_as_before(root, monkeypatch):
    root(hashing.sha256)
    hashing.init_none_hash(hashing.sha256)
    assert hashing.NONE_HASH.hex() != FIXED["sha256"]


@pytest.mark.parametrize(("behaviour", "error"), [("0.9", UnknownNameError), (33, ArgumentTypeError)])
def test_a_bad_behaviour_changes_nothing(root, behaviour, error):
    before = root(hashing.sha256)
    with pytest.raises(error):
        hashing.init_none_hash(hashing.sha256_cbor, behaviour)
    assert before == hashing.NONE_HASH


def test_processes_agree_without_configuration():
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
    code = (
        "from kvgpu.hashing import functions as h; h.init_none_hash(h.sha256_cbor, '0.33'); "
        "print(h.hash_block_tokens(h.sha256_cbor, None, [1, 2]).hex())"
    )
    told = [
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert told[0] == told[1]
