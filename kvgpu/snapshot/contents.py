"""What is in a snapshot: what it says about itself, and one section for each part of the state."""

import json
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from kvgpu.blocks.record import HAS_HASH
from kvgpu.coordinators.base import KVCacheCoordinator
from kvgpu.errors import BlockStateError, SnapshotError
from kvgpu.hashing.functions import HashFunction
from kvgpu.snapshot.archive import Arrays
from kvgpu.snapshot.fields import Fields
from kvgpu.snapshot.freed_pool import FreedPool, reserved_ids
from kvgpu.snapshot.identity import configuration, hash_identity, refuse_others

FORMAT = "kvgpu snapshot"
VERSION = 2
ABOUT = "about"

BYTES_PER_BLOCK = 1024
BYTES_PER_HASH = 64
MORE_BYTES = 1 << 24
"""No snapshot is longer than these say together; a longer file is not read."""

Identity = dict[str, Any]


def most_bytes(coordinator: KVCacheCoordinator) -> int:
    """Return how long a snapshot of a manager can be. O(groups)."""
    hashes = max(coordinator.group_block_sizes, default=1) // coordinator.hash_block_size
    return MORE_BYTES + coordinator.block_pool.num_gpu_blocks * (BYTES_PER_BLOCK + BYTES_PER_HASH * hashes)


def identity(coordinator: KVCacheCoordinator, hash_fn: HashFunction | None, label: str) -> Identity:
    """Return what a snapshot of a manager must say about itself, in the form that JSON gives back. O(layers).

    Raises:
        NoneHashError, ArgumentTypeError: As in `hash_identity`.
    """
    own = {"hash": hash_identity(hash_fn), "label": label, "configuration": configuration(coordinator)}
    again: Identity = json.loads(json.dumps(own))
    return again


def sections_of(coordinator: KVCacheCoordinator) -> list[tuple[str, Any]]:
    """Return the sections that a snapshot of this manager has: their names, and the modules that write and check them.

    Changes are made in this order. A policy compiles code, so only pools that have one load it.
    """
    names = {"keys": "cached_keys", "order": "free_order"}
    if coordinator.block_pool.eviction is not None:
        names["policy"] = "policy"
        if coordinator.block_pool.eviction.shares is not None:
            names["hints"] = "hints"
    return [(name, import_module(f"kvgpu.snapshot.{module}")) for name, module in names.items()]


def written(coordinator: KVCacheCoordinator, own: Identity, now: int) -> Arrays:
    """Return the arrays of a snapshot at a time in ns; nothing is changed. O(blocks of the pool).

    Raises:
        BlockStateError: As in `FreedPool`.
    """
    freed = FreedPool(coordinator, now)
    about = json.dumps({"format": FORMAT, "version": VERSION, **own}).encode()
    arrays: Arrays = {ABOUT: np.frombuffer(about, np.uint8)}
    for name, section in sections_of(coordinator):
        arrays |= {f"{name}.{field}": array for field, array in section.written(coordinator, freed).items()}
    return arrays


def checked(arrays: Arrays, coordinator: KVCacheCoordinator, own: Identity, now: int) -> Callable[[], int]:
    """Return what brings a snapshot into an unused manager and returns the number of blocks that are cached then.

    Args:
        arrays: Of the file.
        coordinator: Of the manager.
        own: What the snapshot must say about itself.
        now: The time in ns, by the clock of hints.

    Raises:
        BlockStateError: The manager has been used.
        SnapshotError: The snapshot is of another format, configuration or hash function, or contradicts itself. Nothing
            is changed in either case.

    O(blocks log blocks).
    """
    _refuse_used(coordinator)
    refuse_others(_about(arrays), own)
    sections = sections_of(coordinator)
    known = {name for name, _ in sections}
    others = {name.partition(".")[0] for name in arrays if name != ABOUT} - known
    if others:
        raise SnapshotError(f"the snapshot has sections that are not known here: {', '.join(sorted(others))}"[:200])
    changes = []
    for name, section in sections:
        fields = Fields(name, arrays)
        changes.append(section.checked(fields, coordinator, now))
        fields.end()

    def change() -> int:
        try:
            for part in changes:
                part()
        except BaseException:  # from outside: half a snapshot is worth less than a cold start
            _forget_all(coordinator)
            raise
        state = coordinator.block_pool.state
        return int(np.count_nonzero(state.records["flags"][: state.num_blocks] & HAS_HASH))

    return change


def _about(arrays: Arrays) -> dict[str, Any]:
    """Return what a snapshot says about itself, if it is one that can be read here."""
    text = arrays.get(ABOUT)
    try:
        about = json.loads(b"" if text is None else text.tobytes())
    except (ValueError, RecursionError) as error:
        raise SnapshotError(f"this is no snapshot: {error}"[:200]) from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise SnapshotError("this is no snapshot: it does not say that it is one")
    if about.get("version") != VERSION:
        raise SnapshotError(f"the snapshot has version {about.get('version')!r:.40}; {VERSION} is read here")
    return about


def _forget_all(coordinator: KVCacheCoordinator) -> None:
    """Forget all cached blocks, and what a policy knows."""
    pool = coordinator.block_pool
    pool.prefix_cache.clear()
    if pool.eviction is not None:
        pool.set_eviction(pool.eviction.name, pool.eviction.shares)


def _refuse_used(coordinator: KVCacheCoordinator) -> None:
    pool = coordinator.block_pool
    free = pool.num_gpu_blocks - 1 - len(reserved_ids(coordinator))
    holds = pool.get_num_free_blocks() != free or any(
        len(each.req_to_blocks) for each in coordinator.single_type_managers
    )
    if holds or len(pool.cached_block_hash_to_block) or (pool.state.records["flags"] & HAS_HASH).any():
        raise BlockStateError("a snapshot is loaded into an unused manager; this one holds or caches blocks")
