"""Environment variables: read here and nowhere else, each with its type; a bad value is an error."""

import os
import re
import secrets
from pathlib import Path

from kvgpu.errors import ConfigError, UnknownNameError

DEFAULT_BACKEND = "host"


def cache_dir() -> Path:
    """`KVGPU_CACHE_DIR`, else `$XDG_CACHE_HOME/kvgpu`, else `~/.cache/kvgpu`: compiled code."""
    own = os.environ.get("KVGPU_CACHE_DIR")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kvgpu"


def chosen_backend() -> str | None:
    """`KVGPU_BACKEND`, or None where it is not set."""
    return os.environ.get("KVGPU_BACKEND") or None


def backend_name() -> str:
    """The index backend of managers that are given none: `KVGPU_BACKEND`, else `host`."""
    return chosen_backend() or DEFAULT_BACKEND


def crossover_blocks() -> int | None:
    """`KVGPU_CROSSOVER_BLOCKS`: blocks from which `auto` asks the GPU; unset: measured.

    Raises:
        ConfigError: The value is no positive integer.
    """
    return _positive("KVGPU_CROSSOVER_BLOCKS", os.environ.get("KVGPU_CROSSOVER_BLOCKS"))


def hash_threads() -> int:
    """`KVGPU_HASH_THREADS`: threads that hash the requests of one call; unset: 1.

    Raises:
        ConfigError: The value is no positive integer.
    """
    return _positive("KVGPU_HASH_THREADS", os.environ.get("KVGPU_HASH_THREADS")) or 1


def _positive(name: str, value: str | None) -> int | None:
    if not value:
        return None
    if not value.isdigit() or int(value) == 0:
        raise ConfigError(f"{name} must be a positive integer, got {value!r}")
    return int(value)


def retention_interval() -> int | None:
    """`VLLM_PREFIX_CACHE_RETENTION_INTERVAL` in tokens; unset means dense retention.

    Raises:
        ConfigError: The value is no integer.
    """
    value = os.environ.get("VLLM_PREFIX_CACHE_RETENTION_INTERVAL")
    if not value:
        return None
    try:
        return int(value)
    except ValueError:
        raise ConfigError(
            f"VLLM_PREFIX_CACHE_RETENTION_INTERVAL must be an integer number of tokens, got {value!r}"
        ) from None


def int_block_hashes() -> bool:
    """`VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES`: events carry 64-bit integers (default) or raw bytes.

    Raises:
        ConfigError: The value is neither 0 nor 1.
    """
    value = os.environ.get("VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES", "1")
    if value not in ("0", "1"):
        raise UnknownNameError("value of VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES", value, ["0", "1"])
    return value == "1"


def hash_key() -> bytes:
    """`KVGPU_HASH_KEY`: key of kvgpu128, as 64 hexadecimal digits; unset: 32 random bytes.

    Raises:
        ConfigError: The value is something else (it is not shown: it may be most of a secret).
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
