"""`DeviceHasher`: hashes of prompts whose token ids lie on a device, written where the index reads them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kvgpu.device.tensors import as_tensor, as_vector, import_torch, resolve_device
from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.hashing.bulk.chains import MOST_TOKENS
from kvgpu.hashing.inputs.extra_keys import ExtraKeys
from kvgpu.hashing.inputs.token_arrays import token_array
from kvgpu.layout import KEY_WORDS

Integers = npt.NDArray[np.int64]


class Prompts(NamedTuple):
    """What was asked for, checked. tokens, out: on the device; starts, counts: int64 [prompts], first token
    and blocks of each; size: tokens of a block; parents, extras: as in `DeviceHasher.rows`."""

    tokens: Any
    starts: Integers
    counts: Integers
    size: int
    parents: Sequence[bytes]
    extras: Sequence[ExtraKeys] | None
    out: Any

    @property
    def bases(self) -> Integers:
        """First row of each prompt in `out`."""
        bases: Integers = np.cumsum(self.counts) - self.counts
        return bases


class HashLaunch(NamedTuple):
    """Hashing that only has to be started, on torch's current stream. out: int64 [blocks, KEY_WORDS]."""

    start: Callable[[], None]
    out: Any

    def __call__(self) -> None:
        """Start the kernels. O(1) here, O(tokens) on the device; does not synchronise."""
        self.start()


def _integers(name: str, numbers: Sequence[int]) -> Integers:
    """Integers [n] as int64.

    Raises:
        ArgumentTypeError: Something else, or beyond 64 bits.
    """
    found = token_array(numbers)
    if found is None:
        raise ArgumentTypeError(f"{name}: integers [n] of 64 bits are expected")
    return found.astype(np.int64)


class DeviceHasher:
    """Hashes prompts on a GPU; a subclass says how.

    Args:
        device: A torch device or its name; None for the one there is.

    Raises:
        DeviceError: There is no GPU, and Triton's interpreter is off.
        MissingPackageError: A package is not installed.
    """

    dtypes: tuple[str, ...] = ("int32",)
    """Of the tokens."""

    def __init__(self, device: Any = None) -> None:
        self.device = resolve_device(device)

    def rows(
        self,
        tokens: Any,
        counts: Sequence[int],
        size: int,
        parents: Sequence[bytes],
        *,
        starts: Sequence[int] | None = None,
        extras: Sequence[ExtraKeys] | None = None,
        out: Any = None,
    ) -> Any:
        """Hashes of the blocks of several prompts, one prompt after the other.

        Args:
            tokens: int32 [n] (or int64 where `dtypes` says so) on the device.
            counts: Blocks of each prompt.
            size: Tokens of a block.
            parents: What stands in front of each prompt: `NONE_HASH`, or the hash of its last block so far.
            starts: First token of each prompt; None where they follow each other without a gap.
            extras: Extra keys of every block, or None where no block has any.
            out: int64 [blocks, KEY_WORDS] on the device, written, as a part of the arena; a new one if None.

        Returns:
            int64 [blocks, KEY_WORDS] on the device, the same bytes as on the CPU.

        Raises:
            ArgumentError: Numbers that do not fit each other, prompts that reach beyond the tokens, or tensors on
                another device.
            ArgumentTypeError: Tensors of another dtype.

        O(tokens). Copies lists of prompts to the device, and waits for these copies.
        """
        launch = self.prepare(tokens, counts, size, parents, starts=starts, extras=extras, out=out)
        launch()
        return launch.out

    def prepare(
        self,
        tokens: Any,
        counts: Sequence[int],
        size: int,
        parents: Sequence[bytes],
        *,
        starts: Sequence[int] | None = None,
        extras: Sequence[ExtraKeys] | None = None,
        out: Any = None,
    ) -> "HashLaunch":
        """`rows` with all its lists on the device, to be started any number of times, also by a CUDA graph
        (after one call outside, which compiles).

        Args and Raises: as of `rows`.

        Returns:
            What starts the kernels: each call hashes the tokens that `tokens` holds by then, into `out`.

        O(prompts + extra keys). Copies to the device, and waits for these copies; a call of what is returned
        waits for nothing.
        """
        torch = import_torch()
        wide = "int64" in self.dtypes and getattr(tokens, "dtype", None) == torch.int64
        tokens = as_vector("tokens", tokens, None, torch.int64 if wide else torch.int32, self.device)
        if type(size) is not int or not 1 <= size <= MOST_TOKENS:
            raise ArgumentError(f"a block has from 1 to {MOST_TOKENS} tokens; got {size!r}")
        blocks = _integers("counts", counts)
        # Divided, since products of what is too large may look small.
        if len(blocks) and (blocks.min() < 0 or blocks.max() > len(tokens) // size):
            raise ArgumentError(f"the prompts reach beyond the {len(tokens)} tokens that there are")
        packed = np.cumsum(blocks * size) - blocks * size
        first = packed if starts is None else _integers("starts", starts)
        if len(parents) != len(blocks) or first.shape != blocks.shape:
            raise ArgumentError("a start, a count and a parent for each prompt are expected")
        if not set(map(type, parents)) <= {bytes}:
            raise ArgumentTypeError("parents must be bytes")
        if len(blocks) and (first.min() < 0 or (first > len(tokens) - blocks * size).any()):
            raise ArgumentError(f"the prompts reach beyond the {len(tokens)} tokens that there are")
        total = int(blocks.sum())
        if extras is not None and len(extras) != total:
            raise ArgumentError(f"extra keys of {total} blocks are expected, got {len(extras)}")
        if out is None:
            out = torch.zeros((total, KEY_WORDS), dtype=torch.int64, device=self.device)
        out = as_tensor("out", out, torch.int64, self.device, written=True)
        if tuple(out.shape) != (total, KEY_WORDS):
            raise ArgumentError(f"out: shape [{total}, {KEY_WORDS}] is expected, got {list(out.shape)}")
        return HashLaunch(self._prepared(Prompts(tokens, first, blocks, size, parents, extras, out)), out)

    def _prepared(self, prompts: Prompts) -> Callable[[], None]:
        """What starts the kernels that fill `prompts.out`."""
        raise NotImplementedError

    def _to_device(self, array: npt.NDArray[Any]) -> Any:
        return import_torch().from_numpy(np.ascontiguousarray(array)).to(self.device)
