"""`DeviceSha256`: SHA-256 of serialised blocks on a GPU, with the same bytes as `sha256` and `sha256_cbor`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from kvgpu.errors import ArgumentError, DeviceError, MissingPackageError
from kvgpu.hashing.device.base import DeviceHasher, Prompts
from kvgpu.hashing.serialised.message_parts import block_endings, packed_parents, refer_to_parents
from kvgpu.hashing.serialised.messages import longest_message, trusted

MAX_MESSAGE_BYTES = (1 << 29) - 1
"""The kernel counts the bits of a message in 32 bits."""


def refuse_long(parent_bytes: int, num_tokens: int, extra_bytes: int) -> None:
    """Refuse blocks whose messages may be longer than the kernel can count.

    Args:
        parent_bytes, num_tokens, extra_bytes: As in `longest_message`.

    Raises:
        ArgumentError: A message may be longer.
    """
    if longest_message(parent_bytes, num_tokens, extra_bytes) > MAX_MESSAGE_BYTES:
        raise ArgumentError(f"messages of more than {MAX_MESSAGE_BYTES} bytes are hashed on the CPU")


class DeviceSha256(DeviceHasher):
    """Hashes prompts with SHA-256 by a CUDA kernel, one prompt per thread, so it pays for many prompts at a time.

    Args:
        kind: PICKLE or CBOR of `kvgpu.hashing.serialised.messages`.
        device: As in `DeviceHasher`.

    Raises:
        DeviceError: There is no GPU, or the serialiser of this process writes other bytes than the kernel.
        MissingPackageError: CuPy or PyTorch is not installed, or cbor2 for CBOR.
    """

    dtypes = ("int32", "int64")

    def __init__(self, kind: int, device: Any = None) -> None:
        super().__init__(device)
        from kvgpu.kernels.cuda_engine import CudaEngine
        from kvgpu.kernels.sha256 import launch_sha256

        CudaEngine()
        try:
            same = trusted(kind)
        except ModuleNotFoundError as error:
            raise MissingPackageError(
                f"{error.name} is not installed, which serialises blocks: pip install {error.name}"
            ) from None
        if not same:
            raise DeviceError("the serialiser of this process writes other bytes than the kernel: hash on the CPU")
        self._kind = kind
        self._launch = launch_sha256

    def _prepared(self, prompts: Prompts) -> Callable[[], None]:
        if refer_to_parents(self._kind, prompts.extras, prompts.counts.tolist(), prompts.parents):
            raise ArgumentError("extra keys that hold the parent hash itself are hashed one by one, on the CPU")
        endings = block_endings(self._kind, prompts.extras)
        parents = packed_parents(self._kind, prompts.parents, prompts.size, endings.longest)
        if parents is None:
            raise ArgumentError("parents or blocks of this length are hashed one by one, on the CPU")
        data, lengths = parents
        refuse_long(data.shape[1], prompts.size, endings.longest)
        return partial(
            self._launch,
            self._kind,
            prompts.tokens,
            self._to_device(prompts.starts),
            self._to_device(prompts.counts),
            self._to_device(prompts.bases),
            prompts.size,
            self._to_device(data),
            self._to_device(lengths.astype(np.int32)),
            self._to_device(endings.data.copy()),
            self._to_device(endings.spans),
            prompts.out,
        )
