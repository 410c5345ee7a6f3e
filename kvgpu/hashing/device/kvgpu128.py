"""`DeviceKvgpu128`: kvgpu128 on a device, for all blocks at once."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from kvgpu.device.tensors import import_torch
from kvgpu.hashing.device.base import DeviceHasher, Integers, Prompts
from kvgpu.hashing.kvgpu128.field import PRIME
from kvgpu.hashing.kvgpu128.function import Kvgpu128


def _words(elements: Sequence[int]) -> Integers:
    """Convert elements to int64 [n, 2], low word first."""
    data = b"".join(element.to_bytes(16, "little") for element in elements)
    return np.frombuffer(data, "<i8").reshape(-1, 2).copy()


def powers_of(point: int, count: int) -> Integers:
    """Compute the powers 0 to `count` of an element and of its inverse: int64 [2, count + 1, 2]."""
    lines = []
    for base in (point, pow(point, -1, PRIME)):
        line = [1]
        for _ in range(count):
            line.append(line[-1] * base % PRIME)
        lines.append(_words(line))
    return np.stack(lines)


class DeviceKvgpu128(DeviceHasher):
    """Hashes prompts with kvgpu128, by Triton kernels on a GPU or in Triton's interpreter.

    Args:
        hash_fn: The hash function under its key.
        device: As in `DeviceHasher`.
    """

    def __init__(self, hash_fn: Kvgpu128, device: Any = None) -> None:
        super().__init__(device)
        from kvgpu.kernels import prefix_hash

        self._launch = prefix_hash.launch_prefix_hash
        self._tile = prefix_hash.TILE
        self._function = hash_fn
        point = int(hash_fn.point[1]) << 64 | int(hash_fn.point[0])
        self._powers = self._to_device(powers_of(point, self._tile))
        self._tile_powers = self._to_device(powers_of(pow(point, self._tile, PRIME), prefix_hash.CARRIED))
        self._mix_keys = self._to_device(hash_fn.mix_keys.view(np.int64))
        self._word_keys: dict[int, Any] = {}

    def _prepared(self, prompts: Prompts) -> Callable[[], None]:
        size = prompts.size
        if size not in self._word_keys:
            self._word_keys[size] = self._to_device(self._function.word_keys(size).view(np.int64))
        states = self._function.states(prompts.parents)
        extras = None
        if prompts.extras is not None:
            extras = self._to_device(self._function.extra_words(prompts.extras).view(np.int64))
        tiles, spans = self._tiles(prompts)
        aligned = size % 4 == 0 and prompts.tokens.data_ptr() % 16 == 0 and not (prompts.starts % 4).any()
        sums = import_torch().empty((len(tiles[2]), 2), dtype=prompts.out.dtype, device=self.device)
        return partial(
            self._launch,
            prompts.tokens,
            tiles,
            spans,
            extras,
            self._word_keys[size],
            self._powers,
            self._tile_powers,
            self._mix_keys,
            self._to_device(states.view(np.int64).reshape(-1, 2)),
            sums,
            prompts.out,
            size,
            aligned,
        )

    def _tiles(self, prompts: Prompts) -> tuple[tuple[Any, Any, Any], tuple[Any, Any]]:
        """Divide prompts into tiles.

        Returns:
            First token, first block and number of blocks of each tile; first tile of each prompt, and the tile after
            its last.
        """
        per_prompt = -(-prompts.counts // self._tile)
        ends = np.cumsum(per_prompt)
        prompt = np.repeat(np.arange(len(per_prompt)), per_prompt)
        before = (np.arange(len(prompt)) - (ends - per_prompt)[prompt]) * self._tile
        counts = np.minimum(prompts.counts[prompt] - before, self._tile).astype(np.int32)
        first_tokens = prompts.starts[prompt] + before * prompts.size
        first_blocks = prompts.bases[prompt] + before
        tiles = self._to_device(first_tokens), self._to_device(first_blocks), self._to_device(counts)
        return tiles, (self._to_device(ends - per_prompt), self._to_device(ends))
