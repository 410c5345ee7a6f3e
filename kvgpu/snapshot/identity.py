"""Whose snapshot it is: the configuration of a manager, and the hash function with its key, in a fingerprint."""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import Any

from kvgpu.config.specs import KVCacheSpec
from kvgpu.coordinators.base import KVCacheCoordinator
from kvgpu.errors import ArgumentTypeError, NoneHashError, SnapshotError
from kvgpu.eviction.names import LRU
from kvgpu.hashing import functions as hashing
from kvgpu.integers import shown

PROBE = tuple(range(16))
"""Tokens of the two blocks whose hashes tell functions, keys and seeds apart."""

PLAIN = (bool, int, float, str, type(None))


def hash_identity(hash_fn: hashing.HashFunction | None) -> dict[str, str]:
    """Return the name of a hash function, and a fingerprint of what it makes of blocks from `NONE_HASH` on.

    The fingerprint is a SHA-256 of hashes, so neither a key nor a seed is in it.

    Args:
        hash_fn: The function; None for the one that `init_none_hash` was called with.

    Raises:
        NoneHashError: `init_none_hash` has not been called.
        ArgumentTypeError: The function cannot be called, or makes no bytes.

    O(1).
    """
    function = hashing.NONE_HASH_FUNCTION if hash_fn is None else hash_fn
    if function is None:
        raise NoneHashError
    if not callable(function):
        raise ArgumentTypeError(f"a hash function is expected, got {shown(function)}")
    first = function((hashing.none_hash(), PROBE, None))
    second = function((first, PROBE, None))
    if not isinstance(first, bytes) or not isinstance(second, bytes):
        raise ArgumentTypeError(f"a hash function makes bytes, not {type(first).__name__}")
    return {
        "name": str(getattr(function, "__name__", type(function).__name__)),
        "fingerprint": hashlib.sha256(b"kvgpu snapshot" + first + second).hexdigest(),
    }


def configuration(coordinator: KVCacheCoordinator) -> dict[str, Any]:
    """Return what decides which blocks are cached under which keys and what they hold, as JSON has it. O(layers).

    What only says how much is served at a time (`max_model_len`, tokens of a step, the watermark) is no part of it, nor
    are the backend, events and statistics.
    """
    pool, config = coordinator.block_pool, coordinator.kv_cache_config
    shares = None if pool.eviction is None else pool.eviction.shares
    return {
        "num_blocks": pool.num_gpu_blocks,
        "enable_caching": coordinator.enable_caching,
        "hash_block_size": coordinator.hash_block_size,
        "scheduler_block_size": coordinator.scheduler_block_size,
        "dcp_world_size": coordinator.dcp_world_size,
        "pcp_world_size": coordinator.pcp_world_size,
        "num_hash_lookahead_tokens": pool.num_hash_lookahead_tokens,
        "num_reprefillable_tokens": coordinator.num_reprefillable_tokens,
        "retention_interval": coordinator.retention_interval,
        "eagle_groups": sorted(coordinator.eagle_group_ids),
        "groups_that_drop": sorted(coordinator.drop_eagle_group_ids),
        "eviction": LRU if pool.eviction is None else pool.eviction.name,
        "shares": None if shares is None else list(shares.items()),
        "behaviour": asdict(coordinator.behaviour),
        "groups": [
            {"layers": [str(name) for name in group.layer_names], "spec": _as_json(group.kv_cache_spec)}
            for group in config.kv_cache_groups
        ],
    }


def _as_json(value: Any) -> Any:
    """Return a value of a configuration as JSON can write it. What an engine calls a spec is left out."""
    if isinstance(value, KVCacheSpec):
        told = {each.name: _as_json(getattr(value, each.name)) for each in fields(value) if each.name != "origin"}
        return {"kind": type(value).__name__, **told}
    if isinstance(value, dict):
        return {str(key): _as_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(each) for each in value]
    return value if type(value) in PLAIN else str(value)


def refuse_others(about: dict[str, Any], own: dict[str, Any]) -> None:
    """Compare what a snapshot says about itself with what it should say. O(layers).

    Raises:
        SnapshotError: They differ; the message says in what.
    """
    theirs, ours = _mapping(about.get("hash")), own["hash"]
    if theirs != ours:
        name = theirs.get("name")
        more = "" if name != ours["name"] else ", with another key or seed (KVGPU_HASH_KEY, PYTHONHASHSEED)"
        raise SnapshotError(f"the blocks of the snapshot were hashed by {name!r:.100}, these by {ours['name']!r}{more}")
    if about.get("label") != own["label"]:
        raise SnapshotError(f"the snapshot is of {about.get('label')!r:.200}, not of {own['label']!r:.200}")
    found, expected = _mapping(about.get("configuration")), own["configuration"]
    differing = [key for key in {**expected, **found} if found.get(key) != expected.get(key)]
    if differing:
        raise SnapshotError(f"the snapshot is of another configuration: {_told(differing, found, expected)}")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _told(keys: Iterable[str], found: dict[str, Any], expected: dict[str, Any]) -> str:
    """Name what differs, with both values if they are short."""
    parts = []
    for key in list(keys)[:5]:
        pair = f"{found.get(key)!r:.60}", f"{expected.get(key)!r:.60}"
        parts.append(f"{key:.60} is {pair[0]}, not {pair[1]}" if max(map(len, pair)) < 60 else f"{key:.60}")
    return "; ".join(parts)
