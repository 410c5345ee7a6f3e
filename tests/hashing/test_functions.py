"""Hash functions, chains of block hashes, the first parent, keys with a group id, and hashes of events."""

import hashlib
import logging
import os
import pickle
import subprocess
import sys

import cbor2
import pytest
import xxhash
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvgpu.errors import ArgumentTypeError, KVGPUError, UnknownNameError
from kvgpu.hashing import functions as hashing
from kvgpu.hashing import map_keys

NAMES = ["sha256", "sha256_cbor", "xxhash", "xxhash_cbor"]
WIDTH = {"sha256": 32, "sha256_cbor": 32, "xxhash": 16, "xxhash_cbor": 16}

token_ids = st.one_of(
    st.integers(-(2**64), 2**64),
    st.integers(0, 300),
    st.sampled_from([-1, 0, 23, 24, 255, 256, 2**16, 2**31 - 1, 2**31, 2**32, 2**63, 2**64]),
)
blocks = st.one_of(st.lists(token_ids, max_size=20).map(tuple), st.integers(0, 3000).map(lambda n: tuple(range(n))))
keys = st.recursive(
    st.one_of(st.none(), st.text(max_size=5), st.binary(max_size=5), token_ids),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)
extras = st.none() | st.lists(keys, min_size=1, max_size=3).map(tuple)
inputs = st.tuples(st.binary(max_size=32), blocks, extras)


def expected(name, value):
    if name.endswith("_cbor"):
        data = cbor2.dumps(value, canonical=True)
    else:
        data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    if name.startswith("sha256"):
        return hashlib.sha256(data).digest()
    return xxhash.xxh3_128(data).digest()


@pytest.fixture
def none_hash(monkeypatch):
    """Set `NONE_HASH` for one test."""
    monkeypatch.setattr(hashing, "NONE_HASH", hashing.BlockHash(b"\x01" * 32), raising=False)
    return hashing.NONE_HASH


@pytest.fixture
def seed(monkeypatch):
    """Set PYTHONHASHSEED, or unset it with None; `NONE_HASH` is restored after the test."""
    monkeypatch.setattr(hashing, "NONE_HASH", hashing.BlockHash(b"\x01" * 32), raising=False)

    def choose(value):
        if value is None:
            monkeypatch.delenv("PYTHONHASHSEED", raising=False)
        else:
            monkeypatch.setenv("PYTHONHASHSEED", value)

    return choose


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(value=inputs)
@example(value=(b"", (), None))
@example(value=(b"p" * 32, (-1, 2**16, 2**31, 2**63), (("image", -5), ("a", ("b", b"c")))))
@example(value=(b"p" * 32, tuple(range(5000)), None))
def test_a_hash_is_that_of_the_serialised_value(name, value):
    assert hashing.get_hash_fn_by_name(name)(value) == expected(name, value)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ((b"", (), None), "8340 80 f6"),
        ((b"\xaa", (1, 24, 2**16), None), "8341aa 83 01 1818 1a00010000 f6"),
        ((b"", (-1, 2**63), ("s", ("i", -2))), "8340 82 20 1b8000000000000000 82 6173 82 6169 21"),
    ],
)
def test_cbor_hashes_are_of_the_shortest_encoding(value, encoded):
    assert hashing.sha256_cbor(value) == hashlib.sha256(bytes.fromhex(encoded)).digest()


@pytest.mark.parametrize("name", NAMES)
def test_hash_functions_have_their_width(name):
    assert len(hashing.get_hash_fn_by_name(name)((b"", (1,), None))) == WIDTH[name]


@pytest.mark.parametrize("name", ["", "md5", "SHA256", "sha256_cbor "])
def test_an_unknown_name_is_an_error_that_lists_the_known(name):
    with pytest.raises(UnknownNameError, match="sha256, sha256_cbor, xxhash, xxhash_cbor") as error:
        hashing.get_hash_fn_by_name(name)
    assert repr(name) in str(error.value)


@pytest.mark.parametrize("builtin", [ValueError, KVGPUError])
def test_an_unknown_name_is_also_a(builtin):
    with pytest.raises(builtin):
        hashing.get_hash_fn_by_name("md5")


def test_a_block_is_hashed_as_parent_tokens_and_extra_keys(none_hash):
    seen = []

    def spy(value):
        seen.append(value)
        return b"h" * 32

    hashing.hash_block_tokens(spy, hashing.BlockHash(b"parent"), [1, 2], ("salt",))
    assert seen == [(b"parent", (1, 2), ("salt",))]
    assert type(seen[0][1]) is tuple


@pytest.mark.parametrize("parent", [None, b""])
def test_a_block_without_parent_hangs_on_the_none_hash(none_hash, parent):
    value = hashing.hash_block_tokens(hashing.sha256, parent, [1, 2])
    assert value == expected("sha256", (none_hash, (1, 2), None))


@pytest.mark.parametrize("name", ["sha256", "sha256_cbor", "xxhash", "xxhash_cbor"])
@pytest.mark.parametrize("odd", [(b"h" * 32, None), ("h" * 32, [1]), (None, [(_ for _ in ())])])
def test_what_cannot_be_hashed_is_refused(none_hash, name, odd):
    with pytest.raises(ArgumentTypeError):
        hashing.hash_block_tokens(hashing.get_hash_fn_by_name(name), *odd)


def test_the_none_hash_is_read_at_every_call(none_hash, monkeypatch):
    before = hashing.hash_block_tokens(hashing.sha256, None, [1])
    monkeypatch.setattr(hashing, "NONE_HASH", hashing.BlockHash(b"\x02" * 32))
    assert hashing.hash_block_tokens(hashing.sha256, None, [1]) != before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("changed", [0, 1, 2])
def test_a_changed_block_changes_every_hash_from_there_on(none_hash, name, changed):
    function = hashing.get_hash_fn_by_name(name)

    def chain(tokens):
        parent, hashes = None, []
        for block in tokens:
            parent = hashing.hash_block_tokens(function, parent, block)
            hashes.append(parent)
        return hashes

    tokens = [[1, 2], [3, 4], [5, 6]]
    other = [[0, 0] if place == changed else block for place, block in enumerate(tokens)]
    equal = [a == b for a, b in zip(chain(tokens), chain(other), strict=True)]
    assert equal == [place < changed for place in range(3)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", ["0", "42", "random", ""])
def test_the_none_hash_is_the_hash_of_the_seed(seed, name, value):
    seed(value)
    hashing.init_none_hash(hashing.get_hash_fn_by_name(name))
    assert expected(name, value) == hashing.NONE_HASH


@pytest.mark.parametrize("name", NAMES)
def test_without_a_seed_the_none_hash_is_32_bytes_that_differ_each_time(seed, name):
    seed(None)
    drawn = set()
    for _ in range(4):
        hashing.init_none_hash(hashing.get_hash_fn_by_name(name))
        drawn.add(hashing.NONE_HASH)
    assert (len(drawn), {len(value) for value in drawn}) == (4, {32})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [None, "0"])
def test_only_cbor_functions_without_a_seed_warn(seed, caplog, name, value):
    seed(value)
    with caplog.at_level(logging.WARNING):
        hashing.init_none_hash(hashing.get_hash_fn_by_name(name))
    warned = any("PYTHONHASHSEED" in record.getMessage() for record in caplog.records)
    assert warned == (value is None and name.endswith("_cbor"))


def first_hash_of_a_process(hash_seed):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONHASHSEED"} | hash_seed
    code = (
        "from kvgpu.hashing import functions as h; h.logger.disabled = True; "
        "h.init_none_hash(h.sha256_cbor); "
        "print(h.hash_block_tokens(h.sha256_cbor, None, [1, 2]).hex())"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize(("environment", "equal"), [({"PYTHONHASHSEED": "7"}, True), ({}, False)])
def test_processes_share_hashes_only_with_a_common_seed(environment, equal):
    first, second = (first_hash_of_a_process(environment) for _ in range(2))
    assert (first == second) is equal


@pytest.mark.parametrize(
    ("group", "suffix"), [(0, "00000000"), (1, "00000001"), (258, "00000102"), (2**32 - 1, "ffffffff")]
)
def test_a_key_is_the_hash_and_four_bytes_of_group_big_endian(group, suffix):
    key = map_keys.make_block_hash_with_group_id(hashing.BlockHash(b"hash"), group)
    assert key == b"hash" + bytes.fromhex(suffix)


@settings(max_examples=50, deadline=None)
@given(block_hash=st.binary(max_size=70), group=st.integers(0, 2**32 - 1))
def test_a_key_gives_back_hash_and_group(block_hash, group):
    key = map_keys.make_block_hash_with_group_id(hashing.BlockHash(block_hash), group)
    assert (map_keys.get_block_hash(key), map_keys.get_group_id(key)) == (block_hash, group)


@pytest.mark.parametrize("setting", [None, "1"])
@pytest.mark.parametrize("size", [8, 16, 32, 96])
def test_the_external_hash_is_the_last_64_bits_big_endian(monkeypatch, setting, size):
    if setting is None:
        monkeypatch.delenv("VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES", raising=False)
    else:
        monkeypatch.setenv("VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES", setting)
    block_hash = hashing.BlockHash(b"\xff" * (size - 8) + b"\xfe\0\0\0\0\0\0\x02")
    assert map_keys.maybe_convert_block_hash(block_hash) == 0xFE00_0000_0000_0002


def test_the_external_hash_is_all_bytes_if_so_configured(monkeypatch):
    monkeypatch.setenv("VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES", "0")
    assert map_keys.maybe_convert_block_hash(hashing.BlockHash(b"h" * 32)) == b"h" * 32


def test_hashing_before_init_none_hash_says_what_to_do():
    code = (
        "import kvgpu\n"
        "from kvgpu.hashing import functions as hashing\n"
        "from kvgpu.errors import NoneHashError\n"
        "assert not hasattr(hashing, 'NONE_HASH')\n"
        "for tokens, fn in ((list(range(16)), hashing.sha256), (list(range(320)), hashing.kvgpu128)):\n"
        "    try:\n"
        "        kvgpu.Request('r', tokens, block_hasher=kvgpu.get_request_block_hasher(16, fn))\n"
        "    except NoneHashError as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.count("call init_none_hash(hash_fn)"), done.stderr) == (2, "")
