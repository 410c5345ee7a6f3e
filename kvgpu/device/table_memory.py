"""`TableMemory`: what a table keeps on its device, and what may be handed to it."""

import secrets
from typing import TYPE_CHECKING, Any

import numpy as np

from kvgpu import layout
from kvgpu.device import tensors
from kvgpu.device.tensors import (
    allocating,
    as_tensor,
    as_vector,
    import_torch,
    on_stream,
    refuse_overlap,
    resolve_device,
)
from kvgpu.errors import (
    ArgumentError,
    ArgumentTypeError,
    BlockIdError,
    ConfigError,
    InvariantError,
    KVGPUError,
    UnknownNameError,
)
from kvgpu.integers import as_integer, as_size
from kvgpu.kernels.view import TableView
from kvgpu.rules.plan import PrefixPlan

if TYPE_CHECKING:
    from kvgpu.kernels.longest_prefix import PrefixBuffers

ENGINES = ("triton", "cuda")


def engine_by_name(name: str) -> Any:
    """The module whose `launch_find`, `launch_update` and `launch_probe` a table calls.

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
    """Tensors of one table, and the checks of everything that is about to reach its kernels.

    Args and Raises: see `BlockHashTable`.
    """

    def __init__(
        self,
        num_blocks: int,
        key_bytes: int = 32,
        *,
        device: Any = None,
        load_factor: float = layout.DEFAULT_LOAD_FACTOR,
        seed: int | None = None,
        engine: str = "triton",
    ) -> None:
        num_blocks = as_size("num_blocks", num_blocks, 1, layout.MAX_BLOCK_ID + 1)
        key_bytes = as_size("key_bytes", key_bytes, 0, 64)
        if key_bytes not in (16, 32):
            raise ConfigError(f"key_bytes must be 16 or 32, got {key_bytes}")
        if not isinstance(load_factor, (int, float, np.floating)) or not 0 < load_factor <= 0.9:
            raise ConfigError(f"load_factor must be above 0 and at most 0.9, got {load_factor!r}")
        if num_blocks > load_factor * layout.SLOTS_PER_BUCKET * layout.MAX_BLOCK_ID:
            raise ConfigError(f"load_factor {load_factor} is too low for {num_blocks} blocks")
        torch = import_torch()
        self._torch = torch
        self.device = resolve_device(device)
        self._engine = engine_by_name(engine)
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

    @property
    def nbytes(self) -> int:
        """Bytes of device memory that the table keeps, plans left out. O(1)."""
        return sum(t.nbytes for t in (self.view.words, self.view.records, self.view.meta))

    @property
    def _parts(self) -> dict[str, Any]:
        return {"the table": self.view.words, "records": self.view.records, "meta": self.view.meta}

    # Arguments

    def _keys(self, keys: Any) -> Any:
        torch = self._torch
        one_byte = getattr(getattr(keys, "dtype", None), "itemsize", 8) == 1
        words = as_tensor("keys", keys, torch.uint8 if one_byte else torch.int64, self.device)
        width = self.key_bytes if one_byte else self.view.key_words
        if words.dim() != 2 or words.shape[1] != width:
            raise ArgumentError(f"keys: shape [n, {width}] is expected, got {list(words.shape)}")
        if words.data_ptr() % 16:
            words = words.clone()  # kernels read two words at once
        return words.view(torch.int64)

    def _groups(self, groups: Any, count: int) -> Any:
        torch = self._torch
        if isinstance(groups, (int, float, np.generic)):
            group = as_integer("group", groups, 0, layout.MAX_GROUP_ID)
            return torch.full((1,), group, dtype=torch.int32, device=self.device)
        return as_vector("groups", groups, count, torch.int32, self.device)

    def _spans(self, offsets: Any) -> tuple[Any, Any]:
        int64 = self._torch.int64
        if isinstance(offsets, tuple):
            if len(offsets) != 2:
                raise ArgumentError(f"offsets: a pair is expected, got {len(offsets)} of them")
            begins = as_vector("begins", offsets[0], None, int64, self.device)
            return begins, as_vector("ends", offsets[1], len(begins), int64, self.device)
        offsets = as_vector("offsets", offsets, None, int64, self.device)
        if not len(offsets):
            raise ArgumentError("offsets: [requests + 1] numbers are expected, got none")
        return offsets[:-1], offsets[1:]

    def _written(self, name: str, out: Any, count: int, dtype: Any, read: dict[str, Any]) -> Any:
        """`out` as a vector that shares no memory with what is `read` beside it."""
        vector = as_vector(name, out, count, dtype, self.device, written=True)
        refuse_overlap(name, vector, read | self._parts)
        return vector

    def _waits(self, stream: Any) -> None:
        """
        Raises:
            ArgumentError: The stream captures a CUDA graph, in which nothing can be waited for.
        """
        with on_stream(stream, self.device):
            if tensors.is_capturing(self.device):
                raise ArgumentError("a call that waits cannot be captured: use the one that ends in _async")

    def _check_buffers(
        self, out: "PrefixBuffers", requests: int, num_keys: int, plan: PrefixPlan, read: dict[str, Any]
    ) -> "PrefixBuffers":
        """`out` as tensors, none of which shares memory with another or what is `read`."""
        from kvgpu.kernels.longest_prefix import PrefixBuffers

        if not isinstance(out, PrefixBuffers):
            raise ArgumentTypeError(f"out: PrefixBuffers are expected, got {type(out).__name__}")
        int32, lines, queries = self._torch.int32, len(plan.groups), len(plan.queries)
        expected = {
            "num_tokens": (self._torch.int64, (requests,)),
            "firsts": (int32, (requests, queries)),
            "lengths": (int32, (requests, queries)),
            "ids": (int32, (lines, num_keys)),
            "hits": (int32, (lines, num_keys)),
        }
        read, checked = read | self._parts, out
        for name, (dtype, shape) in expected.items():
            buffer = getattr(out, name)
            if buffer is None and name == "ids":
                continue
            tensor = as_tensor(f"out.{name}", buffer, dtype, self.device, written=True)
            if tuple(tensor.shape) != shape:
                raise ArgumentError(
                    f"out.{name}: made for another batch or plan; {shape} is needed, got {tuple(tensor.shape)}"
                )
            refuse_overlap(f"out.{name}", tensor, read)
            read[f"out.{name}"] = tensor
            checked = checked._replace(**{name: tensor})
        return checked

    def _plan(self, plan: PrefixPlan) -> Any:
        if not isinstance(plan, PrefixPlan):
            raise ArgumentTypeError(f"plan: a PrefixPlan is expected, got {type(plan).__name__}")
        words = self._plans.get(plan)
        if words is None:
            if tensors.is_capturing(self.device):
                raise ArgumentError(
                    "a plan cannot be brought to the device in a capture: call prefix_buffers() with it, "
                    "or match_async(), once before the capture"
                )
            words = self._torch.from_numpy(np.ascontiguousarray(plan.words)).to(self.device)
            self._plans[plan] = words
        return words

    def _error(self, status: int) -> KVGPUError:
        if status & layout.STATUS_BAD_BLOCK_ID:
            return BlockIdError(
                f"a block id of a batch was outside the table of {self.num_blocks} blocks; the batch was left out"
            )
        if status & layout.STATUS_BAD_GROUP:
            return ArgumentError("a group of a batch was negative; the batch was left out")
        if status & layout.STATUS_KEY_TWICE:
            return ArgumentError(
                "a batch had a key twice in one group; it was left out: give each key once, with the "
                "block that is first in the end"
            )
        if status & layout.STATUS_BLOCK_TWICE:
            return ArgumentError(
                "a block of a batch would have been first under two keys; the batch was left out: let it "
                "leave the other key in the same batch or before"
            )
        if status & layout.STATUS_WRONG_OLD:
            return ArgumentError(
                "`old` of a batch was not what is first under its key; the batch was left out: leave "
                "`old` out to have it looked up"
            )
        if status & layout.STATUS_BAD_OFFSETS:
            return ArgumentError("offsets decrease or lie outside the keys")
        return InvariantError("an update did not find what it was told is there, or no room: rebuild() the table")
