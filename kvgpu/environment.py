"""Environment variables: all are read here, each as its type; a bad value is an error."""

import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from kvgpu.errors import ConfigError, UnknownNameError

DEFAULT_BACKEND = "host"
LARGEST = 2**31 - 1
"""Largest number of tokens or blocks: they are counted in int32."""


def cache_dir() -> Path | None:
    """Return the folder for compiled code: `KVGPU_CACHE_DIR`, else `$XDG_CACHE_HOME/kvgpu`, else `~/.cache/kvgpu`.

    None if no variable is set and the user's home is unknown.
    """
    own = os.environ.get("KVGPU_CACHE_DIR")
    if own:
        return Path(own)
    caches = os.environ.get("XDG_CACHE_HOME")
    if caches:
        return Path(caches) / "kvgpu"
    try:
        return Path.home() / ".cache" / "kvgpu"
    except RuntimeError:  # no HOME, and no entry for the user
        return None


def environment_with(variables: Mapping[str, str]) -> dict[str, str]:
    """Return all variables of this process, for another one, with some set to other values."""
    return {**os.environ, **variables}


def chosen_backend() -> str | None:
    """Return `KVGPU_BACKEND`, or None if it is not set."""
    return os.environ.get("KVGPU_BACKEND") or None


def backend_name() -> str:
    """Return the index backend of managers that are given none: `KVGPU_BACKEND`, else `host`."""
    return chosen_backend() or DEFAULT_BACKEND


def crossover_blocks() -> int | None:
    """Return `KVGPU_CROSSOVER_BLOCKS`, the number of blocks from which `auto` uses the GPU; None if unset: measured.

    Raises:
        ConfigError: The value is not a positive integer, or is too large.
    """
    return _integer("KVGPU_CROSSOVER_BLOCKS", os.environ.get("KVGPU_CROSSOVER_BLOCKS"), "blocks", 1)


def uses_native_calls() -> bool:
    """Return whether the extension in C is used, if it was built: unless `KVGPU_NATIVE` is 0.

    Raises:
        ConfigError: The value is neither 0 nor 1.
    """
    value = os.environ.get("KVGPU_NATIVE") or "1"
    if value not in ("0", "1"):
        raise ConfigError(f"KVGPU_NATIVE must be 0 or 1, got {value!r:.100}")
    return value == "1"


def hash_threads() -> int:
    """Return `KVGPU_HASH_THREADS`, the number of threads that hash the requests of one call; 1 if unset.

    Raises:
        ConfigError: The value is not a positive integer, or is too large.
    """
    return _integer("KVGPU_HASH_THREADS", os.environ.get("KVGPU_HASH_THREADS"), "threads", 1) or 1


def retention_interval() -> int | None:
    """Return `VLLM_PREFIX_CACHE_RETENTION_INTERVAL` in tokens; None, which means dense retention, if unset.

    Raises:
        ConfigError: The value is not an integer, or is too large.
    """
    return _integer(
        "VLLM_PREFIX_CACHE_RETENTION_INTERVAL",
        os.environ.get("VLLM_PREFIX_CACHE_RETENTION_INTERVAL"),
        "tokens",
        -LARGEST,
    )


def _integer(name: str, value: str | None, unit: str, lowest: int) -> int | None:
    """Parse the value of a variable: ASCII digits, few enough for `int`, after an optional sign."""
    if not value:
        return None
    if not re.fullmatch("[+-]?[0-9]{1,20}", value) or not lowest <= int(value) <= LARGEST:
        raise ConfigError(
            f"{name} must be an integer number of {unit} from {lowest} to {LARGEST}, "
            f"got {value if len(value) <= 40 else value[:40] + '...'!r}"
        )
    return int(value)


def int_block_hashes() -> bool:
    """Return whether events carry 64-bit integers (default) or raw bytes: `VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES`.

    Raises:
        ConfigError: The value is neither 0 nor 1.
    """
    value = os.environ.get("VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES", "1")
    if value not in ("0", "1"):
        raise UnknownNameError("value of VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES", value, ["0", "1"])
    return value == "1"


def vllm_mode(is_named: bool = False) -> str:
    """Return what kvgpu does inside vLLM: `off`, `on` or `check`; see `kvgpu.vllm`.

    `KVGPU_VLLM` says it with 0, 1 or check. If it is not set, kvgpu is on where `VLLM_PLUGINS` names it, or where it
    `is_named` otherwise.

    Raises:
        ConfigError: The value is none of these.
    """
    modes = {"0": "off", "1": "on", "check": "check"}
    value = os.environ.get("KVGPU_VLLM")
    if not value:
        return "on" if is_named or "kvgpu" in os.environ.get("VLLM_PLUGINS", "").split(",") else "off"
    if value not in modes:
        raise UnknownNameError("value of KVGPU_VLLM", value, list(modes))
    return modes[value]


def hash_key() -> bytes:
    """Return the key of kvgpu128: the 64 hexadecimal digits of `KVGPU_HASH_KEY`; 32 random bytes if unset.

    Raises:
        ConfigError: The value is anything else. The message does not show it, since it may be most of a secret.
    """
    value = os.environ.get("KVGPU_HASH_KEY")
    if not value:
        return secrets.token_bytes(32)
    if not re.fullmatch("[0-9a-fA-F]{64}", value):
        raise ConfigError(
            "KVGPU_HASH_KEY must be 64 hexadecimal digits; "
            "`python -c 'import secrets; print(secrets.token_hex(32))'` makes one"
        )
    return bytes.fromhex(value)


def vllm_policy() -> str | None:
    """Return `KVGPU_VLLM_POLICY`, the order in which `kvgpu.vllm.Scheduler` admits requests; None if it is not set."""
    return os.environ.get("KVGPU_VLLM_POLICY") or None


def vllm_eviction() -> str:
    """Return `KVGPU_EVICTION`, the order of eviction of managers inside vLLM; `lru`, which is vLLM's, if unset."""
    return os.environ.get("KVGPU_EVICTION") or "lru"


def vllm_hint_shares() -> dict[str, float] | None:
    """Return what `KVGPU_CACHE_HINTS` gives tenants inside vLLM, as fractions of the pool; None if unset: no hints.

    The value is `1`, or `tenant=fraction` for each tenant, with commas in between.

    Raises:
        ConfigError: The value is anything else, or names a tenant twice.
    """
    value = os.environ.get("KVGPU_CACHE_HINTS")
    if not value or value == "1":
        return {} if value else None
    pairs = re.findall("([^=,]+)=([0-9.]{1,20})(?:,|$)", value)
    try:
        shares = {tenant: float(fraction) for tenant, fraction in pairs}
    except ValueError:
        shares = {}
    if not shares or len(shares) != len(value.split(",")):
        raise ConfigError(f"KVGPU_CACHE_HINTS must be 1, or tenant=fraction for each tenant, got {value!r:.100}")
    return shares
