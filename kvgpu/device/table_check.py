"""What is in a table, and whether it all agrees."""

from typing import Any

from kvgpu import layout
from kvgpu.device.table_memory import TableMemory


def start_entered(memory: TableMemory) -> Any:
    """Start to find out which blocks are entries, bool [num_blocks]; see `BlockHashTable.items_async`."""
    torch = memory.torch
    slots = memory.view.words[:, : layout.SLOTS_PER_BUCKET].reshape(-1)
    entered = torch.zeros(memory.num_blocks + 1, dtype=torch.bool, device=memory.device)
    entered[slots & layout.LOW_32] = True
    return entered[1:]


def entries(memory: TableMemory) -> tuple[Any, Any, Any]:
    """Keys, groups and ids of all entries; see `BlockHashTable.items`. Waits. O(num_blocks)."""
    torch = memory.torch
    ids = start_entered(memory).nonzero().flatten()
    records = memory.view.records[ids]
    words = memory.view.key_words
    keys = records[:, :words].contiguous().view(torch.uint8)
    return keys, records[:, words].to(torch.int32), ids.to(torch.int32)


def violations(memory: TableMemory, size: int) -> list[str]:
    """Describe everything that is wrong with a table of `size` keys. Waits. O(num_blocks)."""
    from kvgpu.kernels.invariants import VIOLATION_WORDS, launch_entries, violations_in_words

    torch = memory.torch
    shape = memory.view.num_buckets, layout.OVERFLOW_COUNTERS
    overflow = torch.zeros(shape, dtype=torch.int32, device=memory.device)
    uses = torch.zeros(memory.num_blocks, dtype=torch.int32, device=memory.device)
    counts = torch.zeros(VIOLATION_WORDS, dtype=torch.int64, device=memory.device)
    launch_entries(memory.view, overflow, uses, counts)
    places = layout.OVERFLOW_BITS * torch.arange(layout.OVERFLOW_COUNTERS, device=memory.device)
    counted = memory.view.words[:, layout.OVERFLOW_WORD, None] >> places & layout.OVERFLOW_FULL
    miscounted = ((counted != overflow) & (counted != layout.OVERFLOW_FULL)).any(1).sum()
    found: list[str] = violations_in_words(counts.tolist(), size, int(miscounted), int((uses > 1).sum()))
    return found
