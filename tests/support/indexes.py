"""Indexes of every backend over records of their own, and keys that are hard to tell apart."""

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from support import slot_hashes

from kvgpu.blocks.record import Ids
from kvgpu.blocks.state import BlockState
from kvgpu.index.base import BlockIndex, Keys
from kvgpu.index.journal import Flush, Journal
from kvgpu.index.registry import BACKENDS, backend_by_name
from kvgpu.index.request_spans import RequestSpans
from kvgpu.layout import KEY_WORDS
from kvgpu.rules.plan import HitQuery, HitRule, PrefixPlan


def _why_no_kernels() -> str | None:
    """Why the backends of devices cannot run, or None."""
    for package in ("torch", "triton"):
        if find_spec(package) is None:
            return f"{package} is not installed: no kernel was run"
    return None


def _why_no_twins() -> str | None:
    if _why_no_kernels() is not None:
        return _why_no_kernels()
    from support.device.tables import why_not_cuda

    return why_not_cuda()


CANNOT_RUN: dict[str, Callable[[], str | None]] = {"triton": _why_no_kernels, "cuda": _why_no_twins}
"""Backend -> a function that says why it cannot run here (for example for want of a device)."""


def _parameter(name: str) -> Any:
    reason = CANNOT_RUN.get(name, lambda: None)()
    return pytest.param(name, marks=[pytest.mark.skip(reason=reason)] if reason else [])


without_twins = pytest.mark.parametrize("backend", [_parameter(name) for name in ("host", "reference", "triton")])
"""For what no index knows of: one of those on a device will do."""
every_backend = pytest.mark.parametrize("backend", [_parameter(name) for name in sorted(BACKENDS)])

device_backends = pytest.mark.parametrize("backend", [_parameter(name) for name in sorted(CANNOT_RUN)])
"""Those that answer lookups from a device, or from its interpreter."""


def make_index(backend: str, num_blocks: int, journal: Journal | None = None) -> BlockIndex:
    """An empty index over blocks 0 to num_blocks - 1, of which none is the null block."""
    state = BlockState(num_blocks)
    state.adopt_width(32)  # what the first cached hash does
    return backend_by_name(backend)(state, journal)


def match(
    index: BlockIndex, rule: HitRule, groups: tuple[int, ...], rows: Keys, max_length: int, stride: int = 1
) -> list[list[int]]:
    """Ids of the longest prefix, one line per group."""
    plan = PrefixPlan((HitQuery(rule, groups, stride),))
    _, lines, _ = index.match(plan, rows, max_length)
    assert all(ids.dtype == np.int32 for ids in lines)
    return [ids.tolist() for ids in lines]


def ids_of(*ids: int) -> Ids:
    return np.array(ids, np.int32)


def random_rows(count: int, seed: int = 0) -> Keys:
    """Keys that have nothing in common, int64 [count, KEY_WORDS]."""
    words = np.random.default_rng(seed).integers(-(2**63), 2**63 - 1, (count, KEY_WORDS))
    return words.astype(np.int64)


def insert(index: BlockIndex, ids: Iterable[int], rows: Keys, group: int = 0) -> None:
    index.insert(np.array(list(ids), np.int32), np.atleast_2d(rows), 1, group, 0)


def erase(index: BlockIndex, *ids: int, forget: bool = True) -> None:
    index.erase(np.array(ids, np.int32), forget)


def chain(index: BlockIndex, row: Any, group: int = 0) -> list[int]:
    """All blocks under a key, in order."""
    first = index.first(row, group)
    return [] if first < 0 else index.chain(first)


def _seed_of(index: BlockIndex) -> int:
    """Indexes without a seed are asked about the same kind of keys, with no effect on them."""
    return int(getattr(index, "seed", 0))


def rows_of_hash(index: BlockIndex, wanted: Iterable[int], group: int = 0) -> Keys:
    """Different keys that have these slot hashes, made odd."""
    seed = _seed_of(index)
    keys = [slot_hashes.key_of_hash(seed, h | 1, [i, 0, 0, 0], group) for i, h in enumerate(wanted)]
    return np.array(keys, np.int64)


def twin_keys(index: BlockIndex, word: int, group: int = 0) -> Keys:
    """Two keys with the same bucket and tag that differ in one word only."""
    return np.stack(slot_hashes.twin_keys(_seed_of(index), word, group))


def twin_groups(index: BlockIndex, row: Any) -> tuple[int, int]:
    """Two groups in which the key has the same bucket and tag; sets the seed of an empty index."""
    seed, *groups = slot_hashes.twin_groups(row)
    index.seed = seed  # type: ignore[attr-defined]
    return groups[0], groups[1]


def replay(copy: dict[tuple[bytes, int], int], flush: Flush) -> None:
    """Apply the changes of a flush to a copy of "who is first", checking what each replaces."""
    for words, group, old, new in zip(*flush, strict=True):
        key = (words.tobytes(), int(group))
        assert copy.get(key, -1) == old
        if new < 0:
            del copy[key]
        else:
            copy[key] = int(new)


def asked(*limits: int) -> RequestSpans:
    """Spans of requests that have three hashes each, one behind the other, with these limits."""
    begins = 3 * np.arange(len(limits))
    return RequestSpans.in_arena(begins, begins + 3, limits)
