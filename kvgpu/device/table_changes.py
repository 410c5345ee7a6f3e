"""Flushes of a table: batches of changes, each of which is applied as a whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from kvgpu import layout
from kvgpu.device.table_arguments import group_vector, key_words
from kvgpu.device.table_memory import TableMemory
from kvgpu.device.tensors import as_vector


class TableBatch(NamedTuple):
    """Changes of a table as kernels take them."""

    words: Any
    """Keys, int64 [n, key words]."""
    groups: Any
    """int32 [n]."""
    before: Any
    """Blocks that are first under the keys, int32 [n], -1 for none."""
    after: Any
    """Blocks that become first, int32 [n], -1 for none."""


def start_update(memory: TableMemory, keys: Any, groups: Any, old: Any, new: Any, validate: bool) -> None:
    """Start a flush on the current stream; see `BlockHashTable.update_async`."""
    words, all_groups, after = _checked(memory, keys, groups, new)
    if old is None:
        before = memory.torch.empty_like(after)
        memory.engine.launch_find(memory.view, words, all_groups, before)
    else:
        before = as_vector("old", old, len(words), memory.torch.int32, memory.device)
    batch = TableBatch(words, all_groups, before, after)
    if not validate:
        memory.engine.launch_update(memory.view, *batch)
        return
    with _validated(memory, batch, trusts_old=old is None):
        memory.engine.launch_update(memory.view, *batch)


def start_rebuild(memory: TableMemory, keys: Any, groups: Any, ids: Any, validate: bool) -> None:
    """Start to replace all entries on the current stream; see `BlockHashTable.rebuild_async`."""
    words, all_groups, after = _checked(memory, keys, groups, ids)
    batch = TableBatch(words, all_groups, memory.torch.full_like(after, -1), after)
    if not validate:
        start_clear(memory)
        memory.engine.launch_update(memory.view, *batch)
        return
    memory.view.meta[layout.META_STATUS].zero_()
    with _validated(memory, batch, replaces=True) as gate:
        # The gate is 1 if everything stays, else 0.
        memory.view.words.mul_(gate)
        memory.view.meta[layout.META_SIZE].mul_(gate)
        memory.engine.launch_update(memory.view, *batch)


def start_clear(memory: TableMemory) -> None:
    """Start to take everything out on the current stream. O(num_blocks)."""
    memory.view.words.zero_()
    memory.view.meta.zero_()


def _checked(memory: TableMemory, keys: Any, groups: Any, new: Any) -> tuple[Any, Any, Any]:
    """Keys, groups and new blocks of a batch as kernels take them."""
    words = key_words(memory, keys)
    count = len(words)
    after = as_vector("new", new, count, memory.torch.int32, memory.device)
    return words, group_vector(memory, groups, count).expand(count).contiguous(), after


@contextmanager
def _validated(
    memory: TableMemory, batch: TableBatch, *, trusts_old: bool = True, replaces: bool = False
) -> Iterator[Any]:
    """Keep what is started inside from changing anything if the batch is bad.

    Yields the gate through which the kernels see that, int64 [], 1 if it is closed.
    """
    from kvgpu.kernels.validate import launch_validate, set_size

    gate = memory.view.meta[layout.META_GATE]
    sets = memory.torch.zeros((3, set_size(len(batch.words))), dtype=memory.torch.int32, device=memory.device)
    try:
        gate.zero_()
        launch_validate(memory.view, *batch, sets, not trusts_old, replaces)
        yield gate
    finally:
        gate.zero_()
