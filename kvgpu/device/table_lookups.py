"""Lookups in a table: blocks of keys, and longest cached prefixes of requests."""

from typing import TYPE_CHECKING, Any, NamedTuple

from kvgpu import layout
from kvgpu.device.table_arguments import group_vector, key_spans, key_words, output_buffers, output_vector
from kvgpu.device.table_memory import TableMemory
from kvgpu.device.tensors import allocating, as_vector
from kvgpu.integers import as_integer
from kvgpu.rules.plan import HitQuery, HitRule, PrefixPlan
from kvgpu.rules.plan_words import FULL

if TYPE_CHECKING:
    from kvgpu.kernels.longest_prefix import PrefixBuffers

MAX_REQUESTS = 2**31 - 1
MAX_KEYS = 2**63 - 1

ONE_GROUP = PrefixPlan((HitQuery(HitRule(FULL, 1, 1), (0,)),))
"""The plan of full attention in group 0, with one token per block: hits count blocks."""


class PrefixQuery(NamedTuple):
    """Arguments of `BlockHashTable.longest_prefix_async`, not checked yet."""

    keys: Any
    offsets: Any
    longest: int
    max_lengths: Any
    null_id: int


def start_find(memory: TableMemory, keys: Any, groups: Any, out: Any) -> Any:
    """Start to look keys up on the current stream; see `BlockHashTable.find_async`."""
    int32 = memory.torch.int32
    words = key_words(memory, keys)
    read = {"keys": words, "groups": group_vector(memory, groups, len(words))}
    if out is None:
        out = memory.torch.empty(len(words), dtype=int32, device=memory.device)
    ids = output_vector(memory, out, len(words), int32, read)
    memory.engine.launch_find(memory.view, words, read["groups"], ids)
    return out


def start_contains(memory: TableMemory, keys: Any, groups: Any, out: Any) -> Any:
    """Start to look up which keys are there, on the current stream; see `BlockHashTable.contains_async`."""
    words = key_words(memory, keys)
    target = None if out is None else output_vector(memory, out, len(words), memory.torch.bool, {})
    ids = start_find(memory, words, groups, None)
    if target is None:
        return ids >= 0
    memory.torch.ge(ids, 0, out=target)
    return out


def empty_buffers(
    memory: TableMemory, num_requests: int, num_keys: int, plan: PrefixPlan, with_ids: bool
) -> "PrefixBuffers":
    """Uninitialised buffers; see `BlockHashTable.prefix_buffers`."""
    from kvgpu.kernels.leading_run import suits
    from kvgpu.kernels.longest_prefix import PrefixBuffers

    torch = memory.torch

    def empty(*shape: int, dtype: Any = torch.int32) -> Any:
        return torch.empty(shape, dtype=dtype, device=memory.device)

    num_requests = as_integer("num_requests", num_requests, 0, MAX_REQUESTS)
    num_keys = as_integer("num_keys", num_keys, 0, MAX_KEYS)
    memory.plan_words(plan)
    lines, queries = len(plan.groups), len(plan.queries)
    with allocating(f"buffers of {num_requests} requests and {num_keys} keys"):
        num_tokens = empty(num_requests, dtype=torch.int64)
        return PrefixBuffers(
            num_tokens=num_tokens,
            firsts=empty(num_requests, queries),
            lengths=empty(num_requests, queries),
            furthest=num_tokens if suits(plan) else empty(num_requests, dtype=torch.int64),
            ids=empty(lines, num_keys) if with_ids else None,
            hits=empty(lines, num_keys),
        )


def start_longest_prefix(
    memory: TableMemory, query: PrefixQuery, plan: PrefixPlan, out: "PrefixBuffers | None"
) -> "PrefixBuffers":
    """Start to look prefixes up on the current stream; see `BlockHashTable.longest_prefix_async`."""
    torch = memory.torch
    longest = as_integer("longest", query.longest, 0, MAX_KEYS)
    null_id = as_integer("null_id", query.null_id, -(2**31), 2**31 - 1)
    words = key_words(memory, query.keys)
    begins, ends = key_spans(memory, query.offsets)
    longest = min(longest, len(words))
    max_lengths = query.max_lengths
    if max_lengths is None:
        max_lengths = torch.full_like(begins, layout.MAX_TOKENS)
    limits = as_vector("max_lengths", max_lengths, len(begins), torch.int64, memory.device)
    plan_words = memory.plan_words(plan)
    if out is None:
        out = empty_buffers(memory, len(begins), len(words), plan, True)
    read = {"keys": words, "offsets": begins, "ends": ends, "max_lengths": limits}
    buffers = output_buffers(memory, out, len(begins), len(words), plan, read)
    start_checked_prefix(memory, plan, plan_words, words, (begins, ends, limits), buffers, longest, null_id)
    return out


def start_checked_prefix(
    memory: TableMemory,
    plan: PrefixPlan,
    plan_words: Any,
    keys: Any,
    spans: tuple[Any, Any, Any],
    out: "PrefixBuffers",
    longest: int,
    null_id: int,
) -> None:
    """Start the kernels of a lookup whose arguments are checked, in memory that the device can reach.

    spans: int64 [requests] each: first key, key after the last, and longest hit in tokens.
    """
    from kvgpu.kernels.leading_run import suits
    from kvgpu.kernels.longest_prefix import launch_decide

    view, (begins, ends, limits) = memory.view, spans
    if suits(plan):
        memory.engine.launch_leading_run(view, plan_words, keys, begins, ends, limits, out, longest)
        return
    memory.engine.launch_probe(view, plan_words, keys, begins, ends, out.hits, longest, len(plan.queries))
    launch_decide(view, plan_words, begins, ends, limits, out, longest, null_id)
