"""How often Triton would compile while a table and an index serve: a GPU that is not there, and launches nothing.

    python tests/support/device/kernel_variants.py

Prints what was wanted of each kernel by the first call of its kind ("warm"), and what any later call wanted beyond
("more"), as JSON. Not under TRITON_INTERPRET.
"""

import json
from collections import Counter
from types import SimpleNamespace
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from kvgpu.device import tensors

WANTED: set[tuple[str, str]] = set()


class NoGpu(SimpleNamespace):
    """A driver that has a target and no device."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def note(*, key: str, fn: Any, **details: Any) -> bool:
    """Note what would be compiled; True: it is not."""
    WANTED.add((fn.name.rpartition(".")[2], key))
    return True


driver.set_active(NoGpu())
triton.knobs.runtime.jit_cache_hook = note
tensors.resolve_device = lambda device=None: torch.device("cpu")

from support.device.packages import LACKED  # noqa: E402
from support.managers import full, make_manager, make_request, window  # noqa: E402

from kvgpu.batch.queries import BatchQueries  # noqa: E402
from kvgpu.device.block_hash_table import ONE_GROUP, BlockHashTable  # noqa: E402
from kvgpu.hashing.device.kvgpu128 import DeviceKvgpu128  # noqa: E402
from kvgpu.hashing.kvgpu128.function import Kvgpu128  # noqa: E402
from kvgpu.rules.plan import HitQuery, HitRule, PrefixPlan  # noqa: E402
from kvgpu.rules.plan_words import FULL, SLIDING_WINDOW  # noqa: E402

TWO = PrefixPlan((HitQuery(HitRule(FULL, 16, 16), (0,)), HitQuery(HitRule(SLIDING_WINDOW, 16, 16, extent=3), (1, 2))))
COUNTS = [2, *range(1, 71)]
"""The first one warms up."""


def shifted(count: int, width: int, shift: int, dtype: torch.dtype) -> torch.Tensor:
    """A contiguous tensor [count, width] that begins so many elements behind an aligned address."""
    return torch.zeros(count * width + shift, dtype=dtype)[shift:].view(count, width)


def vector(count: int, shift: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return shifted(count, 1, shift, dtype).view(count)


def use_table(table: BlockHashTable, count: int, shift: int) -> None:
    """Every operation of a table, with arguments at addresses of all kinds."""
    keys = shifted(count, table.view.key_words, shift, torch.int64)
    groups, new, old, out = (vector(count, shift) for _ in range(4))
    table.find(keys, 0)
    table.find(keys, groups, out=out)
    table.find(shifted(count, table.key_bytes, 3 * shift, torch.uint8), count)
    table.update(keys, new, groups, old=old)
    table.update_async(keys, new, count, validate=False)
    table.rebuild(keys, new, groups)
    table.check()


def use_prefixes(table: BlockHashTable, plan: PrefixPlan, count: int, shift: int) -> None:
    """Longest prefixes of so many requests, with numbers of all kinds."""
    longest, words = 3 * count - 3, table.view.key_words
    keys = shifted(longest + shift, words, shift, torch.int64)
    spans = torch.zeros(3, count, dtype=torch.int64)
    limits = vector(count, shift, torch.int64)
    null_id = (0, 1, 16, -1, 2**31 - 1)[count % 5]
    table.longest_prefix_async(keys, (spans[0], spans[1]), plan, longest=longest, max_lengths=spans[2], null_id=null_id)
    out = table.prefix_buffers(count, len(keys), plan, with_ids=bool(shift))
    table.longest_prefix_async(
        keys, vector(count + 1, shift, torch.int64), plan, longest=longest, max_lengths=limits, out=out
    )


def use_hashes(hasher: DeviceKvgpu128, count: int, shift: int) -> None:
    """Prompts of so many blocks, without and, where they can be serialised, with extra keys."""
    counts = [count, 3]
    tokens = vector(16 * (count + 3) + shift, shift)
    salted = [("a",)] * sum(counts)
    for extras in (None,) if "cbor2" in LACKED else (None, salted):
        hasher.hashes(tokens, counts, 16, [b"p" * 16] * 2, extras=extras)


def main() -> None:
    """All of it; each kind of use warms up once."""
    warm: set[tuple[str, str]] = set()
    more: Counter[str] = Counter()

    def serve(use: Any, *arguments: Any, first: bool) -> None:
        known = set(WANTED)
        use(*arguments)
        if first:
            warm.update(WANTED - known)
        else:
            more.update(name for name, _ in WANTED - known)

    for key_bytes in (16, 32):
        # Blocks, seeds and loads: numbers of which some are multiples of 16, and batches that take two launches.
        tables = [
            BlockHashTable(1000, key_bytes, seed=7),
            BlockHashTable(112, key_bytes, seed=16),
            BlockHashTable(70, key_bytes, seed=1, load_factor=0.9),
        ]
        for i, count in enumerate(COUNTS):
            table = tables[i % 3]
            serve(use_table, table, count, count % 2, first=i == 0)
            for plan in (ONE_GROUP, TWO):
                serve(use_prefixes, table, plan, count, count % 2, first=i == 0)
    hasher = DeviceKvgpu128(Kvgpu128(bytes(range(32))))
    for i, count in enumerate(COUNTS):
        serve(use_hashes, hasher, count, count % 2, first=i == 0)
    queries = queries_of(70)
    rows = queries.rows.all()
    for count in COUNTS:
        serve(queries.match_async, rows[:count], first=False)
    shown = {"warm": Counter(name for name, _ in warm), "more": more}
    print(json.dumps(shown))


def queries_of(count: int) -> BatchQueries:
    """So many requests of different lengths, tracked."""
    manager = make_manager(full(16), window(16, 48), num_blocks=200, backend="triton")
    first = make_request("first", 100, 16)
    manager.allocate_slots(first, 100)
    queries = BatchQueries(manager, count, 100 * count)
    queries.track([make_request(f"r{i}", 16 * i, 16) for i in range(count)])
    return queries


if __name__ == "__main__":
    main()
