"""`DevicePrefixHasher`: kvgpu128 of token ids that lie on a device, written where the index reads them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.block_hashing.chains import Rows
from kvgpu.block_hashing.field import PRIME
from kvgpu.block_hashing.kvgpu128 import Kvgpu128
from kvgpu.errors import ArgumentError
from kvgpu.kernels.layout import KEY_WORDS
from kvgpu.tensors import as_tensor, as_vector, import_torch, resolve_device


def _words(elements: Sequence[int]) -> Rows:
    """Elements as int64 [n, 2], low word first."""
    data = b"".join(element.to_bytes(16, "little") for element in elements)
    return np.frombuffer(data, "<i8").reshape(-1, 2).copy()


def powers_of(point: int, count: int) -> Rows:
    """Powers 0 to `count` of an element, and of its inverse: int64 [2, count + 1, 2]."""
    lines = []
    for base in (point, pow(point, -1, PRIME)):
        line = [1]
        for _ in range(count):
            line.append(line[-1] * base % PRIME)
        lines.append(_words(line))
    return np.stack(lines)


class DevicePrefixHasher:
    """Hashes prompts on a GPU (or in Triton's interpreter), all blocks at once.

    Args:
        hash_fn: The hash, with its key.
        device: A torch device or its name; None for the one there is.

    Raises:
        DeviceError: There is no GPU, and the interpreter is off.
        MissingPackageError: PyTorch or Triton is not installed.
    """

    def __init__(self, hash_fn: Kvgpu128, device: Any = None) -> None:
        from kvgpu.kernels import prefix_hash

        self._launch = prefix_hash.launch_prefix_hash
        self._tile = prefix_hash.TILE
        self._hash = hash_fn
        self.device = resolve_device(device)
        point = int(hash_fn.point[1]) << 64 | int(hash_fn.point[0])
        self._powers = self._to_device(powers_of(point, self._tile))
        self._tile_powers = self._to_device(powers_of(pow(point, self._tile, PRIME), self._tile))
        self._mix_keys = self._to_device(hash_fn.mix_keys.view(np.int64))
        self._keys: dict[int, Any] = {}

    def _to_device(self, array: npt.NDArray[Any]) -> Any:
        return import_torch().from_numpy(np.ascontiguousarray(array)).to(self.device)

    def rows(
        self, tokens: Any, counts: Sequence[int], size: int, parents: Sequence[bytes], *,
        starts: Sequence[int] | None = None, extras: Any = None, out: Any = None,
    ) -> Any:  # fmt: skip
        """Hashes of the blocks of several prompts, one prompt after the other.

        Args:
            tokens: int32 [n] on the device.
            counts: Blocks of each prompt.
            size: Tokens of a block.
            parents: What stands in front of each prompt: `NONE_HASH`, or the hash of its last block so far.
            starts: First token of each prompt; None where they follow each other without a gap.
            extras: int64 [blocks, 3] on the device, digest and flag (0 or 1) of each block's extra keys, from
                `Kvgpu128.extra_words`; None for no extra keys.
            out: int64 [blocks, KEY_WORDS] on the device, written, as a part of the arena; a new one if None.

        Returns:
            int64 [blocks, KEY_WORDS] on the device, the same bytes as `Kvgpu128.rows`.

        Raises:
            ArgumentError: Numbers that do not fit each other, prompts that reach beyond the tokens, or tensors on
                another device.
            ArgumentTypeError: Tensors of another dtype.

        O(tokens). Copies the list of tiles to the device, and waits for nothing.
        """
        torch = import_torch()
        tokens = as_vector("tokens", tokens, None, torch.int32, self.device)
        blocks = np.asarray(counts, np.int64)
        first = np.cumsum(blocks * size) - blocks * size if starts is None else np.asarray(starts)
        if (
            size < 1
            or len(parents) != len(blocks)
            or first.shape != blocks.shape
            or (blocks < 0).any()
        ):
            raise ArgumentError(
                "a start, a count of at least 0 and a parent for each prompt are expected"
            )
        if len(blocks) and ((first < 0).any() or (first + blocks * size).max() > len(tokens)):
            raise ArgumentError(f"the prompts reach beyond the {len(tokens)} tokens that there are")
        total = int(blocks.sum())
        if out is None:
            out = torch.zeros((total, KEY_WORDS), dtype=torch.int64, device=self.device)
        else:
            out = as_tensor("out", out, torch.int64, self.device, written=True)
        if out.dim() != 2 or out.shape[0] != total or out.shape[1] < 2:
            raise ArgumentError(
                f"out: shape [{total}, {KEY_WORDS}] is expected, got {list(out.shape)}"
            )
        if extras is not None:
            extras = as_tensor("extras", extras, torch.int64, self.device)
            if tuple(extras.shape) != (total, 3):
                raise ArgumentError(
                    f"extras: shape [{total}, 3] is expected, got {list(extras.shape)}"
                )
        if size not in self._keys:
            self._keys[size] = self._to_device(self._hash.keys(size).view(np.int64))
        states = np.array([self._hash.state(parent) for parent in parents], np.uint64).view(
            np.int64
        )
        tiles, spans = self._tiles(first, blocks, size)
        sums = torch.empty((len(tiles[2]), 2), dtype=torch.int64, device=self.device)
        self._launch(
            tokens, tiles, spans, extras, self._keys[size], self._powers, self._tile_powers,
            self._mix_keys, self._to_device(states.reshape(-1, 2)), sums, out, size,
        )  # fmt: skip
        return out

    def _tiles(
        self, first: npt.NDArray[np.int64], blocks: npt.NDArray[np.int64], size: int
    ) -> tuple[tuple[Any, Any, Any], tuple[Any, Any]]:
        """First tokens, first blocks and counts of tiles; first and last tile of each prompt. On the device."""
        per_prompt = -(-blocks // self._tile)
        ends = np.cumsum(per_prompt)
        prompt = np.repeat(np.arange(len(blocks)), per_prompt)
        before = (np.arange(len(prompt)) - (ends - per_prompt)[prompt]) * self._tile
        counts = np.minimum(blocks[prompt] - before, self._tile).astype(np.int32)
        first_blocks = (np.cumsum(blocks) - blocks)[prompt] + before
        tiles = (first[prompt] + before * size, first_blocks, counts)
        a, b, c = map(self._to_device, tiles)
        return (a, b, c), (self._to_device(ends - per_prompt), self._to_device(ends))
