"""`DeviceHasher`: hashes prompts whose token ids are on a device, and leaves the hashes there for the index."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kvgpu.device.tensors import as_tensor, as_vector, import_torch, resolve_device
from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.hashing.bulk.chains import MAX_BLOCK_TOKENS
from kvgpu.hashing.inputs.extra_keys import ExtraKeys
from kvgpu.hashing.inputs.token_arrays import token_array
from kvgpu.layout import KEY_WORDS

Integers = npt.NDArray[np.int64]


class Prompts(NamedTuple):
    """Checked arguments of `DeviceHasher.hashes`.

    tokens, out: on the device.
    starts, counts: int64 [prompts], first token and number of blocks of each prompt.
    size: tokens of a block.
    parents, extras: as in `DeviceHasher.hashes`.
    """

    tokens: Any
    starts: Integers
    counts: Integers
    size: int
    parents: Sequence[bytes]
    extras: Sequence[ExtraKeys] | None
    out: Any

    @property
    def bases(self) -> Integers:
        """Place of the first hash of each prompt in `out`."""
        bases: Integers = np.cumsum(self.counts) - self.counts
        return bases


class HashLaunch(NamedTuple):
    """Prepared kernels, to be started on torch's current stream. out: int64 [blocks, KEY_WORDS], the hashes."""

    start: Callable[[], None]
    out: Any

    def __call__(self) -> None:
        """Start the kernels. O(1) here, O(tokens) on the device; does not synchronise."""
        self.start()


def _integers(name: str, numbers: Sequence[int]) -> Integers:
    """Convert integers [n] to int64.

    Raises:
        ArgumentTypeError: They are something else, or do not fit into 64 bits.
    """
    found = token_array(numbers)
    if found is None:
        raise ArgumentTypeError(f"{name}: integers [n] of 64 bits are expected")
    return found.astype(np.int64)


class DeviceHasher:
    """Base of the classes that hash prompts on a GPU.

    Args:
        device: A torch device or its name; None for the default one.

    Raises:
        DeviceError: There is no GPU, and Triton's interpreter is off.
        MissingPackageError: A package is not installed.
    """

    dtypes: tuple[str, ...] = ("int32",)
    """Accepted dtypes of the tokens."""

    def __init__(self, device: Any = None) -> None:
        self.device = resolve_device(device)

    def hashes(
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
        """Hash the blocks of several prompts.

        Args:
            tokens: int32 [n] (or int64 if `dtypes` has it) on the device.
            counts: Blocks of each prompt.
            size: Tokens of a block.
            parents: Hash before the first block of each prompt: `NONE_HASH`, or the last hash so far.
            starts: First token of each prompt; None if the prompts lie one after the other without gaps.
            extras: Extra keys of every block; None if no block has any.
            out: int64 [blocks, KEY_WORDS] on the device, for example a part of the arena, to be written to; None for
                a new tensor.

        Returns:
            int64 [blocks, KEY_WORDS] on the device, prompt by prompt, the same bytes as on the CPU.

        Raises:
            ArgumentError: Numbers do not fit each other, prompts reach beyond the tokens, or a tensor is on another
                device.
            ArgumentTypeError: A tensor has another dtype.

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
        """Copy everything that `hashes` needs to the device, so that the kernels can be started repeatedly.

        Args and Raises: as in `hashes`.

        Returns:
            A launch. Each call of it hashes the current contents of `tokens` into `out`, without synchronising. A
            CUDA graph can capture it after one call outside the graph, which compiles the kernels.

        O(prompts + extra keys). Waits for the copies to the device.
        """
        torch = import_torch()
        wide = "int64" in self.dtypes and getattr(tokens, "dtype", None) == torch.int64
        tokens = as_vector("tokens", tokens, None, torch.int64 if wide else torch.int32, self.device)
        if type(size) is not int or not 1 <= size <= MAX_BLOCK_TOKENS:
            raise ArgumentError(f"a block has from 1 to {MAX_BLOCK_TOKENS} tokens; got {size!r}")
        blocks = _integers("counts", counts)
        # Divided, because a product of large numbers may overflow and look small.
        if len(blocks) and (blocks.min() < 0 or blocks.max() > len(tokens) // size):
            raise ArgumentError(f"the prompts reach beyond the {len(tokens)} tokens given")
        packed = np.cumsum(blocks * size) - blocks * size
        first = packed if starts is None else _integers("starts", starts)
        if len(parents) != len(blocks) or first.shape != blocks.shape:
            raise ArgumentError("a start, a count and a parent for each prompt are expected")
        if not set(map(type, parents)) <= {bytes}:
            raise ArgumentTypeError("parents must be bytes")
        if len(blocks) and (first.min() < 0 or (first > len(tokens) - blocks * size).any()):
            raise ArgumentError(f"the prompts reach beyond the {len(tokens)} tokens given")
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
        """Return a function that starts the kernels that fill `prompts.out`."""
        raise NotImplementedError

    def _to_device(self, array: npt.NDArray[Any]) -> Any:
        return import_torch().from_numpy(np.ascontiguousarray(array)).to(self.device)
