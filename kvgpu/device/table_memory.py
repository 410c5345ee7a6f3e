"""`TableMemory`: what a table keeps on its device."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from kvgpu import layout
from kvgpu.device import tensors
from kvgpu.device.tensors import allocating, import_torch, on_stream, resolve_device
from kvgpu.errors import (
    ArgumentError,
    ArgumentTypeError,
    BlockIdError,
    ConfigError,
    InvariantError,
    KVGPUError,
    UnknownNameError,
)
from kvgpu.integers import as_size
from kvgpu.kernels.view import TableView
from kvgpu.rules.plan import PrefixPlan

ENGINES = ("triton", "cuda")

WRONG_BATCHES = {
    layout.STATUS_BAD_GROUP: "a group of a batch was negative; the batch was left out",
    layout.STATUS_KEY_TWICE: "a batch had a key twice in one group; it was left out: give each key once, with the "
    "block that is first in the end",
    layout.STATUS_BLOCK_TWICE: "a block of a batch would have been first under two keys; the batch was left out: let "
    "it leave the other key in the same batch or before",
    layout.STATUS_WRONG_OLD: "`old` of a batch was not what is first under its key; the batch was left out: leave "
    "`old` out to have it looked up",
    layout.STATUS_BAD_OFFSETS: "offsets decrease or lie outside the keys",
}
"""Status that kernels leave -> what was wrong with an argument, the first that applies."""


def engine_by_name(name: str) -> Any:
    """What has the functions `launch_find`, `launch_update`, `launch_probe` and `launch_leading_run`.

    Raises:
        UnknownNameError: No such engine.
        KVGPUError: Its package is missing, or it has no device.
    """
    if name == "triton":
        from kvgpu.kernels import triton_engine

        return triton_engine
    if name == "cuda":
        from kvgpu.kernels.cuda_engine import CudaEngine

        return CudaEngine()
    raise UnknownNameError("kernel engine", name, list(ENGINES))


class TableMemory:
    """Tensors of one table, and of the plans that its lookups have used.

    Args and Raises: see `BlockHashTable`.

    Attributes:
        torch: The module.
        device: Where the tensors lie.
        engine: Launches the kernels, see `engine_by_name`.
        num_blocks: Ids are below this.
        key_bytes: Bytes of a block hash.
        view: The tensors and sizes, as kernels take them.
    """

    def __init__(
        self, num_blocks: int, key_bytes: int, device: Any, load_factor: float, seed: int | None, engine: str
    ) -> None:
        num_blocks = as_size("num_blocks", num_blocks, 1, layout.MAX_BLOCK_ID + 1)
        key_bytes = as_size("key_bytes", key_bytes, 0, 64)
        if key_bytes not in (16, 32):
            raise ConfigError(f"key_bytes must be 16 or 32, got {key_bytes}")
        if not isinstance(load_factor, (int, float, np.floating)) or not 0 < load_factor <= 0.9:
            raise ConfigError(f"load_factor must be above 0 and at most 0.9, got {load_factor!r}")
        if num_blocks > load_factor * layout.SLOTS_PER_BUCKET * layout.MAX_BLOCK_ID:
            raise ConfigError(f"load_factor {load_factor} is too low for {num_blocks} blocks")
        self.torch = torch = import_torch()
        self.device = resolve_device(device)
        self.engine = engine_by_name(engine)
        self.num_blocks = num_blocks
        self.key_bytes = key_bytes
        key_words = key_bytes // 8
        num_buckets = layout.num_buckets_for(num_blocks, float(load_factor))
        bits = secrets.randbits(63) if seed is None else as_size("seed", seed, -(2**63), 2**63 - 1)
        words = {"dtype": torch.int64, "device": self.device}
        with allocating(f"a table of {num_blocks} blocks"):
            self.view = TableView(
                torch.zeros(num_buckets, layout.BUCKET_WORDS, **words),
                torch.empty(num_blocks, layout.record_words(key_words), **words),
                torch.zeros(layout.META_WORDS, **words),
                num_buckets,
                num_blocks,
                key_words,
                bits,
            )
        self._plans: dict[PrefixPlan, Any] = {}
        if self.device.type == "cuda":
            # The table may be used on another stream than the one that zeroed it.
            torch.cuda.current_stream(self.device).synchronize()

    def parts(self) -> dict[str, Any]:
        """The tensors of the table, by the names that messages give them."""
        return {"the table": self.view.words, "records": self.view.records, "meta": self.view.meta}

    def plan_words(self, plan: PrefixPlan) -> Any:
        """A plan as words on the device. O(1); waits for a copy if no lookup has used the plan before.

        Raises:
            ArgumentTypeError: Something else than a plan.
            ArgumentError: The plan would have to be copied in a capture, or asks for parts of blocks.
        """
        if not isinstance(plan, PrefixPlan):
            raise ArgumentTypeError(f"plan: a PrefixPlan is expected, got {type(plan).__name__}")
        if plan.ends_inside:
            raise ArgumentError("plan: its hits may end inside a block, where kernels find none: use a 'host' index")
        words = self._plans.get(plan)
        if words is None:
            if tensors.is_capturing(self.device):
                raise ArgumentError(
                    "a plan cannot be brought to the device in a capture: call prefix_buffers() with it, "
                    "or match_async(), once before the capture"
                )
            words = self.torch.from_numpy(np.ascontiguousarray(plan.words)).to(self.device)
            self._plans[plan] = words
        return words

    def refuse_capture(self, stream: Any) -> None:
        """Check that a call can wait for a stream.

        Raises:
            ArgumentError: The stream captures a CUDA graph, in which nothing can be waited for.
        """
        with on_stream(stream, self.device):
            if tensors.is_capturing(self.device):
                raise ArgumentError("a call that waits cannot be captured: use the one that ends in _async")

    def take_status(self, stream: Any) -> int:
        """Wait for a stream; return the number of keys.

        Raises:
            BlockIdError, ArgumentError, InvariantError: What went wrong before; it is reported once.
        """
        with on_stream(stream, self.device):
            size, status = self.view.meta[:2].tolist()
            if status:
                self.view.meta[layout.META_STATUS].zero_()
                raise self._error(status)
        return int(size)

    @contextmanager
    def waiting(self, stream: Any) -> Iterator[None]:
        """Wait for what is started inside, and report what went wrong, unless the stream captures a CUDA graph."""
        self.refuse_capture(stream)
        yield
        self.take_status(stream)

    def _error(self, status: int) -> KVGPUError:
        if status & layout.STATUS_BAD_BLOCK_ID:
            return BlockIdError(
                f"a block id of a batch was outside the table of {self.num_blocks} blocks; the batch was left out"
            )
        for bit, message in WRONG_BATCHES.items():
            if status & bit:
                return ArgumentError(message)
        return InvariantError("an update did not find what it was told is there, or no room: rebuild() the table")
