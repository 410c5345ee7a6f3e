"""SHA-256 of blocks by the CUDA kernel gives the bytes of `sha256` and `sha256_cbor`."""

import sys

import numpy as np
import pytest
from support.device.tables import needs_cbor2, to_device, torch, why_not_cuda
from support.hash_chains import chain

from kvgpu.errors import ArgumentError, ArgumentTypeError, DeviceError, MissingPackageError
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.device.sha256 import DeviceSha256
from kvgpu.hashing.serialised.messages import CBOR, PICKLE
from kvgpu.kernels import sha256

REASON = why_not_cuda()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

EDGES = [0, 23, 24, 255, 256, 65_535, 65_536, 2**31 - 1, -1, -24, -25, -256, -257, -(2**31)]
WIDE = [2**31, 2**32 - 1, 2**32, 2**39, 2**40 - 1, 2**47, 2**63 - 1, -(2**31) - 1, -(2**39), -(2**63)]
functions = pytest.mark.parametrize(
    ("kind", "function"),
    [
        pytest.param(PICKLE, hashing.sha256, id="pickle"),
        pytest.param(CBOR, hashing.sha256_cbor, id="cbor", marks=needs_cbor2),
    ],
)


def on_device(kind, tokens, counts, size, parents, dtype=torch.int32, **options):
    rows = DeviceSha256(kind).hashes(to_device(tokens, dtype), counts, size, parents, **options)
    return [row.tobytes() for row in rows.cpu().numpy()]


@functions
@pytest.mark.parametrize("size", [1, 2, 3, 4, 16, 24, 100])
def test_blocks_of_every_size(kind, function, size):
    tokens = (EDGES * 22)[: 3 * size]
    assert on_device(kind, tokens, [3], size, [b"n" * 32]) == chain(function, tokens, size, parent=b"n" * 32)


@functions
def test_tokens_of_64_bits(kind, function):
    tokens = (WIDE + EDGES)[:24]
    found = on_device(kind, tokens, [6], 4, [b"n" * 32], torch.int64)
    assert found == chain(function, tokens, 4, parent=b"n" * 32)


@functions
@pytest.mark.parametrize("most_warps", [0, 528], ids=["full warps", "warps of few"])
def test_many_prompts_with_parents_and_gaps(kind, function, most_warps, monkeypatch):
    monkeypatch.setattr(sha256, "MOST_WARPS", most_warps)
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 5, 70).tolist()
    starts = (np.cumsum([5 * 16] * 70) - 77).tolist()
    starts[0] = 0
    tokens = rng.integers(0, 128_000, starts[-1] + 5 * 16).tolist()
    parents = [rng.bytes(int(length)) for length in rng.integers(2, 60, 70)]
    expected = [
        block
        for start, count, parent in zip(starts, counts, parents, strict=True)
        for block in chain(function, tokens[start : start + count * 16], 16, parent=parent)
    ]
    assert on_device(kind, tokens, counts, 16, parents, starts=starts) == expected


@functions
def test_extra_keys_are_hashed(kind, function):
    tokens = list(range(5 * 16))
    extras = [("salt",), None, ("lora", ("image", -4)), ("lora", ("image", -20)), ("lora",)]
    found = on_device(kind, tokens, [3, 2], 16, [b"a" * 32, b"b" * 16], extras=extras)
    expected = chain(function, tokens[:48], 16, extras[:3], b"a" * 32)
    assert found == expected + chain(function, tokens[48:], 16, extras[3:], b"b" * 16)


def test_what_is_prepared_hashes_the_tokens_there_are_when_it_is_started():
    tokens = to_device(list(range(32)), torch.int32)
    launch = DeviceSha256(PICKLE).prepare(tokens, [2], 16, [b"n" * 32])
    launch()
    tokens += 5
    launch()
    assert [row.tobytes() for row in launch.out.cpu().numpy()] == chain(
        hashing.sha256, list(range(5, 37)), 16, parent=b"n" * 32
    )


def test_cbor_without_its_package_is_an_error_that_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cbor2", None)
    with pytest.raises(MissingPackageError, match="cbor2 is not installed"):
        DeviceSha256(CBOR)


def test_parents_that_pickle_treats_in_another_way_are_refused():
    with pytest.raises(ArgumentError, match="one by one"):
        on_device(PICKLE, list(range(16)), [1], 16, [b""])


def test_extra_keys_that_pickle_writes_as_a_reference_to_the_parent_are_refused():
    parent = bytes(range(32))
    with pytest.raises(ArgumentError, match="hold the parent"):
        on_device(PICKLE, list(range(32)), [2], 16, [parent], extras=[("image", parent), None])
    equal = bytes(bytearray(parent))
    found = on_device(PICKLE, list(range(32)), [2], 16, [parent], extras=[("image", equal), None])
    assert found == chain(hashing.sha256, list(range(32)), 16, [("image", equal), None], parent)


def test_tokens_of_another_dtype_are_refused():
    with pytest.raises(ArgumentTypeError):
        on_device(PICKLE, [1.5] * 16, [1], 16, [b"n" * 32], torch.float32)


def test_a_serialiser_that_writes_something_else_is_not_trusted(monkeypatch):
    monkeypatch.setattr("kvgpu.hashing.device.sha256.trusted", lambda kind: False)
    with pytest.raises(DeviceError, match="other bytes"):
        DeviceSha256(PICKLE)
