"""kvgpu128 on a device gives the bytes that it gives on the CPU."""

import numpy as np
import pytest
from support.device.tables import DEVICE, POISON, needs_cbor2, to_device, torch

from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.hashing.bulk.chains import Blocks
from kvgpu.hashing.device.kvgpu128 import DeviceKvgpu128, powers_of
from kvgpu.hashing.kvgpu128.field import PRIME
from kvgpu.hashing.kvgpu128.function import Kvgpu128
from kvgpu.kernels.prefix_hash import TILE, WARPS, carries_kernel

HASH = Kvgpu128(bytes(range(32)))


def random_tokens(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(-(2**31), 2**31, count).astype(np.int32)


def random_parents(count):
    """Hashes, and in front a parent that is none."""
    rng = np.random.default_rng(count)
    return [b"none" * 8, *(rng.bytes(16) for _ in range(count - 1))][:count]


def on_cpu(tokens, counts, size, parents, extras=None):
    ends = np.cumsum(counts) * size
    lines = [tokens[end - count * size : end] for end, count in zip(ends, counts, strict=True)]
    return HASH.hashes(Blocks(lines, counts, sum(counts), size, parents, extras))


def on_device(tokens, counts, size, parents, **options):
    hasher = DeviceKvgpu128(HASH)
    return hasher.hashes(to_device(tokens), counts, size, parents, **options).cpu().numpy()


@pytest.mark.parametrize("size", [1, 2, 3, 16, 25, 26, 27, 33, 64])
def test_blocks_of_every_size(size):
    counts = [3, 1]
    tokens, parents = random_tokens(4 * size), random_parents(2)
    assert np.array_equal(on_device(tokens, counts, size, parents), on_cpu(tokens, counts, size, parents))


@pytest.mark.parametrize(
    "counts",
    [[], [0], [TILE - 1], [TILE], [TILE + 1], [2 * TILE, 0, 1, 2 * TILE + 3]],
    ids=lambda counts: "+".join(map(str, counts)) or "none",
)
def test_prompts_of_every_length(counts):
    tokens, parents = random_tokens(16 * sum(counts)), random_parents(len(counts))
    assert np.array_equal(on_device(tokens, counts, 16, parents), on_cpu(tokens, counts, 16, parents))


@needs_cbor2
def test_extra_keys_count():
    extras = [None, ("a",), ("a",), ("b", ("image", -3)), None, ()]
    tokens, parents = random_tokens(6 * 16), random_parents(2)
    found = on_device(tokens, [4, 2], 16, parents, extras=extras)
    assert np.array_equal(found, on_cpu(tokens, [4, 2], 16, parents, extras))


def test_a_prompt_goes_on_behind_its_last_hash():
    tokens = random_tokens(10 * 16)
    whole = on_cpu(tokens, [10], 16, [b"none" * 8])
    rest = on_device(tokens, [6], 16, [whole[3].tobytes()[:16]], starts=[4 * 16])
    assert np.array_equal(rest, whole[4:])


def test_what_is_prepared_hashes_the_tokens_there_are_when_it_is_started():
    tokens = to_device(random_tokens(5 * 16))
    launch = DeviceKvgpu128(HASH).prepare(tokens, [5], 16, [b"none" * 8])
    launch()
    tokens.copy_(to_device(random_tokens(5 * 16, seed=1)))
    launch()
    expected = on_cpu(random_tokens(5 * 16, seed=1), [5], 16, [b"none" * 8])
    assert np.array_equal(launch.out.cpu().numpy(), expected)


def test_hashes_are_written_into_a_part_of_an_arena():
    tokens = random_tokens(5 * 16)
    arena = torch.full((9, 4), POISON, dtype=torch.int64, device=DEVICE)
    part = arena[2:7]
    part.zero_()
    DeviceKvgpu128(HASH).hashes(to_device(tokens), [5], 16, [b"none" * 8], out=part)
    assert np.array_equal(part.cpu().numpy(), on_cpu(tokens, [5], 16, [b"none" * 8]))
    assert (arena[:2] == POISON).all()
    assert (arena[7:] == POISON).all()


def test_what_is_in_front_reaches_every_tile_of_a_very_long_prompt():
    """More tiles than one pass takes, with sums that no prompt has to be hashed for."""
    rng = np.random.default_rng(5)
    counts, point = [2 * TILE + 7, 1, TILE], 3**70 % PRIME
    numbers = [int.from_bytes(rng.bytes(15), "little") for _ in range(sum(counts))]
    fronts = [int.from_bytes(rng.bytes(15), "little") for _ in counts]
    expected = []
    for end, count, front in zip(np.cumsum(counts), counts, fronts, strict=True):
        for number in numbers[end - count : end]:
            expected.append(front)
            front = (front * point + number) % PRIME

    def words(values):
        data = b"".join(value.to_bytes(16, "little") for value in values)
        return to_device(np.frombuffer(data, "<i8").reshape(-1, 2).copy())

    sums, ends = words(numbers), np.cumsum(counts)
    carries_kernel[(len(counts),)](
        sums,
        words(fronts),
        to_device(ends - counts),
        to_device(ends),
        to_device(powers_of(point, TILE)),
        LANES=TILE,
        num_warps=WARPS,
    )
    found = [int.from_bytes(row.tobytes(), "little") % PRIME for row in sums.cpu().numpy()]
    assert found == expected


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"counts": [3]}, ArgumentError),
        ({"counts": [-1]}, ArgumentError),
        ({"size": 0}, ArgumentError),
        ({"parents": []}, ArgumentError),
        ({"starts": [-1]}, ArgumentError),
        ({"starts": [0, 16]}, ArgumentError),
        ({"extras": [None]}, ArgumentError),
        ({"out": to_device(np.zeros((3, 4), np.int64))}, ArgumentError),
        ({"tokens": to_device(np.zeros(32, np.int64))}, ArgumentTypeError),
        ({"out": np.zeros((2, 4), np.int64)}, ArgumentTypeError),
    ],
    ids=str,
)
def test_arguments_that_do_not_fit_are_refused(changed, error):
    given = {"tokens": to_device(np.zeros(32, np.int32)), "counts": [2], "size": 16, "parents": [b"p" * 16]} | changed
    with pytest.raises(error):
        DeviceKvgpu128(HASH).hashes(**given)
