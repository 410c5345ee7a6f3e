"""Block hashes on a GPU: kvgpu128 beside a copy of the tokens, SHA-256 beside hashing block by block in Python."""

from collections.abc import Iterator
from functools import cache, partial
from time import perf_counter as now

import numpy as np
import torch
from harness import Row
from on_gpu.sizes import Sizes
from on_gpu.timing import empty_cache, seconds

from kvgpu.device.tensors import resolve_device
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.bulk.chains import Blocks
from kvgpu.hashing.device.kvgpu128 import DeviceKvgpu128
from kvgpu.hashing.device.sha256 import DeviceSha256
from kvgpu.hashing.kvgpu128.function import Kvgpu128
from kvgpu.hashing.serialised.messages import PICKLE

SIZE = 16
TOKEN_BYTES = 4
PARENT = b"n" * 32


def random_tokens(count: int) -> np.ndarray:
    """int32 [count], of a vocabulary of 128,000."""
    return np.random.default_rng(count).integers(0, 128_000, count, dtype=np.int32)


@cache
def seconds_of_copying(nbytes: int, rounds: int) -> float:
    """A byte, of a copy on the device."""
    source = torch.zeros(nbytes, dtype=torch.uint8, device=resolve_device())
    target = torch.empty_like(source)
    return float(seconds(lambda: target.copy_(source), rounds)[1] / nbytes)


def universal(num_blocks: int, prompts: int, sizes: Sizes) -> Row:
    """kvgpu128 of so many blocks in so many prompts, with all lists of prompts on the device and nothing in its
    caches; the peer is a copy of the tokens."""
    counts = [num_blocks // prompts] * prompts
    tokens, parents = random_tokens(SIZE * sum(counts)), [PARENT] * prompts
    hash_fn = Kvgpu128(bytes(range(32)))
    launch = DeviceKvgpu128(hash_fn).prepare(torch.from_numpy(tokens).to(resolve_device()), counts, SIZE, parents)
    launch()
    lines = list(tokens.reshape(prompts, -1))
    expected = hash_fn.hashes(Blocks(lines, counts, sum(counts), SIZE, parents, None))
    assert np.array_equal(launch.out.cpu().numpy(), expected), "kvgpu128: device and CPU differ"
    to_ns = 1e9 / sum(counts)
    low, middle, high = seconds(launch, sizes.rounds, empty_cache) * to_ns
    copied = seconds_of_copying(sizes.copied, sizes.rounds) * SIZE * TOKEN_BYTES * 1e9
    row = Row(
        "hash, kvgpu128",
        f"{sum(counts):,} blocks of {SIZE} in {prompts:,} prompts, cold",
        "ns/block",
        middle,
        copied,
        f"their part of a copy of {sizes.copied // 10**6} MB",
        low=low,
        high=high,
    )
    return row.hold_against(0.5)


def kvgpu128(sizes: Sizes) -> Iterator[Row]:
    """All cases."""
    for num_blocks, prompts in sizes.hashes:
        yield universal(num_blocks, prompts, sizes)


def one_by_one(tokens: np.ndarray) -> list[bytes]:
    """Hashes of the blocks of one prompt as vLLM defines them: SHA-256 of a pickle, each after its parent."""
    parent, hashes = PARENT, []
    for block in tokens.reshape(-1, SIZE):
        parent = hashing.sha256((parent, tuple(block.tolist()), None))
        hashes.append(parent)
    return hashes


def sha256(sizes: Sizes) -> Iterator[Row]:
    """SHA-256 of many prompts; the peer is its definition in Python, for a few of them."""
    prompts, blocks = sizes.chains
    tokens = random_tokens(SIZE * blocks * prompts)
    launch = DeviceSha256(PICKLE).prepare(
        torch.from_numpy(tokens).to(resolve_device()), [blocks] * prompts, SIZE, [PARENT] * prompts
    )
    launch()
    found = launch.out.cpu().numpy()
    lines = tokens.reshape(prompts, -1)[: min(4, prompts)]
    begin = now()
    expected = [one_by_one(line) for line in lines]
    peer = (now() - begin) / (len(lines) * blocks) * 1e9
    for place, hashes in enumerate(expected):
        rows = found[place * blocks : (place + 1) * blocks]
        assert [row.tobytes() for row in rows] == hashes, "sha256: device and CPU differ"
    low, middle, high = seconds(launch, sizes.rounds) * 1e9 / (prompts * blocks)
    row = Row(
        "hash, sha256",
        f"{prompts:,} prompts of {blocks:,} blocks of {SIZE}",
        "ns/block",
        middle,
        peer,
        "vLLM's definition in Python, one by one",
        low=low,
        high=high,
    )
    yield row.hold_against(100)


def launches(sizes: Sizes) -> Iterator[Row]:
    """What a call with its copies costs Python, beside which the kernels are short."""
    num_blocks, prompts = sizes.hashes[-1]
    counts = [num_blocks // prompts] * prompts
    tokens = torch.from_numpy(random_tokens(SIZE * sum(counts))).to(resolve_device())
    hasher = DeviceKvgpu128(Kvgpu128(bytes(range(32))))
    out = hasher.hashes(tokens, counts, SIZE, [PARENT] * prompts)
    call = partial(hasher.hashes, tokens, counts, SIZE, [PARENT] * prompts, out=out)
    times = []
    for _ in range(sizes.rounds):
        begin = now()
        call()
        torch.cuda.synchronize()
        times.append((now() - begin) * 1e6)
    yield Row(
        "call from Python, kvgpu128", f"{sum(counts):,} blocks in {prompts:,} prompts", "us", float(np.median(times))
    )
