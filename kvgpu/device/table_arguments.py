"""Arguments of a table's calls, checked: keys, groups, offsets, and the buffers that results are written to."""

from typing import TYPE_CHECKING, Any

import numpy as np

from kvgpu import layout
from kvgpu.device.table_memory import TableMemory
from kvgpu.device.tensors import as_tensor, as_vector, refuse_overlap
from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.integers import as_integer
from kvgpu.rules.plan import PrefixPlan

if TYPE_CHECKING:
    from kvgpu.kernels.longest_prefix import PrefixBuffers


def key_words(memory: TableMemory, keys: Any) -> Any:
    """Keys as int64 [n, key words], aligned for kernels that read two words at once.

    Raises:
        ArgumentError, ArgumentTypeError: They are neither uint8 [n, key_bytes] nor int64 [n, key_bytes / 8] there.
    """
    torch = memory.torch
    one_byte = getattr(getattr(keys, "dtype", None), "itemsize", 8) == 1
    words = as_tensor("keys", keys, torch.uint8 if one_byte else torch.int64, memory.device)
    width = memory.key_bytes if one_byte else memory.view.key_words
    if words.dim() != 2 or words.shape[1] != width:
        raise ArgumentError(f"keys: shape [n, {width}] is expected, got {list(words.shape)}")
    if words.data_ptr() % 16:
        words = words.clone()
    return words.view(torch.int64)


def group_vector(memory: TableMemory, groups: Any, count: int) -> Any:
    """Groups of keys as int32 [count], or [1] if one number holds for all.

    Raises:
        ArgumentError, ArgumentTypeError: They are neither.
    """
    torch = memory.torch
    if isinstance(groups, (int, float, np.generic)):
        group = as_integer("group", groups, 0, layout.MAX_GROUP_ID)
        return torch.full((1,), group, dtype=torch.int32, device=memory.device)
    return as_vector("groups", groups, count, torch.int32, memory.device)


def key_spans(memory: TableMemory, offsets: Any) -> tuple[Any, Any]:
    """First key of each request, and key after its last: int64 [requests] each.

    Raises:
        ArgumentError, ArgumentTypeError: Neither a pair of these nor int64 [requests + 1].
    """
    int64 = memory.torch.int64
    if isinstance(offsets, tuple):
        if len(offsets) != 2:
            raise ArgumentError(f"offsets: a pair is expected, got {len(offsets)} of them")
        begins = as_vector("begins", offsets[0], None, int64, memory.device)
        return begins, as_vector("ends", offsets[1], len(begins), int64, memory.device)
    offsets = as_vector("offsets", offsets, None, int64, memory.device)
    if not len(offsets):
        raise ArgumentError("offsets: [requests + 1] numbers are expected, got none")
    return offsets[:-1], offsets[1:]


def output_vector(memory: TableMemory, out: Any, count: int, dtype: Any, read: dict[str, Any]) -> Any:
    """`out` as a vector that shares no memory with the table, nor with what is `read` while it is written.

    Raises:
        ArgumentError, ArgumentTypeError: It does, or has another shape, dtype or device.
    """
    vector = as_vector("out", out, count, dtype, memory.device, written=True)
    refuse_overlap("out", vector, read | memory.parts())
    return vector


def output_buffers(
    memory: TableMemory, out: "PrefixBuffers", num_requests: int, num_keys: int, plan: PrefixPlan, read: dict[str, Any]
) -> "PrefixBuffers":
    """`out` as tensors, none of which shares memory with another, with the table, or with what is `read`.

    Raises:
        ArgumentError, ArgumentTypeError: They do, or a shape, dtype or device is another.
    """
    from kvgpu.kernels.leading_run import suits
    from kvgpu.kernels.longest_prefix import PrefixBuffers

    if not isinstance(out, PrefixBuffers):
        raise ArgumentTypeError(f"out: PrefixBuffers are expected, got {type(out).__name__}")
    int32, lines, queries = memory.torch.int32, len(plan.groups), len(plan.queries)
    expected = {
        "num_tokens": (memory.torch.int64, (num_requests,)),
        "firsts": (int32, (num_requests, queries)),
        "lengths": (int32, (num_requests, queries)),
        "furthest": (memory.torch.int64, (num_requests,)),
        "ids": (int32, (lines, num_keys)),
        "hits": (int32, (lines, num_keys)),
    }
    used, checked = read | memory.parts(), out
    for name, (dtype, shape) in expected.items():
        buffer = getattr(out, name)
        if (buffer is None and name == "ids") or (name == "furthest" and suits(plan)):
            continue
        tensor = as_tensor(f"out.{name}", buffer, dtype, memory.device, written=True)
        if tuple(tensor.shape) != shape:
            raise ArgumentError(
                f"out.{name}: made for another batch or plan; {shape} is needed, got {tuple(tensor.shape)}"
            )
        refuse_overlap(f"out.{name}", tensor, used)
        used[f"out.{name}"] = tensor
        checked = checked._replace(**{name: tensor})
    return checked._replace(furthest=checked.num_tokens) if suits(plan) else checked
