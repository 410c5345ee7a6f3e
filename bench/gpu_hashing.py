"""Block hashes on a GPU: kvgpu128 beside a copy of the tokens, SHA-256 beside hashing block by block in Python."""

from collections.abc import Iterator
from time import perf_counter as now

import numpy as np
import torch
from gpu_time import seconds
from harness import Row

from kvgpu import hashing
from kvgpu.block_hashing.blocks import Blocks
from kvgpu.block_hashing.device_kvgpu128 import DeviceKvgpu128
from kvgpu.block_hashing.device_sha256 import DeviceSha256
from kvgpu.block_hashing.kvgpu128 import Kvgpu128
from kvgpu.block_hashing.messages import PICKLE
from kvgpu.tensors import resolve_device

SIZE = 16
PARENT = b"n" * 32


def random_tokens(count: int) -> np.ndarray:
    """int32 [count], of a vocabulary of 128,000."""
    return np.random.default_rng(count).integers(0, 128_000, count).astype(np.int32)


def universal(num_blocks: int, prompts: int, rounds: int) -> Row:
    """kvgpu128 of so many blocks in so many prompts; the peer is a copy of the tokens on the device."""
    counts = [num_blocks // prompts] * prompts
    tokens, parents = random_tokens(SIZE * sum(counts)), [PARENT] * prompts
    hash_fn = Kvgpu128(bytes(range(32)))
    device = resolve_device()
    on_device = torch.from_numpy(tokens).to(device)
    hasher = DeviceKvgpu128(hash_fn)
    found = hasher.rows(on_device, counts, SIZE, parents)
    lines = list(tokens.reshape(prompts, -1))
    expected = hash_fn.rows(Blocks(lines, counts, sum(counts), SIZE, parents, None))
    assert np.array_equal(found.cpu().numpy(), expected), "kvgpu128: device and CPU differ"
    low, middle, high = seconds(
        lambda: hasher.rows(on_device, counts, SIZE, parents, out=found), rounds
    )
    target = torch.empty_like(on_device)
    _, copied, _ = seconds(lambda: target.copy_(on_device), rounds)
    to_ns = 1e9 / sum(counts)
    row = Row(
        "hash, kvgpu128", f"{sum(counts):,} blocks of {SIZE} in {prompts:,} prompts", "ns/block",
        middle * to_ns, copied * to_ns, "copy of the tokens", low=low * to_ns, high=high * to_ns,
    )  # fmt: skip
    return row.hold_against(0.5)


def sha256(prompts: int, blocks: int, rounds: int) -> Row:
    """SHA-256 of so many prompts; the peer hashes some blocks one by one on the CPU."""
    counts = [blocks] * prompts
    tokens, parents = random_tokens(SIZE * sum(counts)), [PARENT] * prompts
    on_device = torch.from_numpy(tokens).to(resolve_device())
    hasher = DeviceSha256(PICKLE)
    found = hasher.rows(on_device, counts, SIZE, parents)
    start, few = now(), min(4, prompts)
    for prompt in range(few):
        parent = PARENT
        for block in range(prompt * blocks, (prompt + 1) * blocks):
            ids = tuple(tokens[block * SIZE : (block + 1) * SIZE].tolist())
            parent = hashing.sha256((parent, ids, None))
        last = found[(prompt + 1) * blocks - 1].cpu().numpy().tobytes()
        assert last == parent, "sha256: device and CPU differ"
    peer = (now() - start) / (few * blocks)
    low, middle, high = seconds(
        lambda: hasher.rows(on_device, counts, SIZE, parents, out=found), rounds
    )
    to_ns = 1e9 / sum(counts)
    row = Row(
        "hash, sha256", f"{prompts:,} prompts of {blocks:,} blocks of {SIZE}", "ns/block",
        middle * to_ns, peer * 1e9, "one by one on the CPU", low=low * to_ns, high=high * to_ns,
    )  # fmt: skip
    return row.hold_against(100)


def hashes(with_cuda: bool, rounds: int, rehearse: bool) -> Iterator[Row]:
    """All rows."""
    if rehearse:
        yield universal(40, 2, rounds)
        if with_cuda:
            yield sha256(3, 2, rounds)
        return
    yield universal(10_000_000 // SIZE, 1, rounds)
    yield universal(10_000_000 // SIZE, 1000, rounds)
    if with_cuda:
        yield sha256(1024, 512, rounds)
