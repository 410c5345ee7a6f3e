"""Environment variables: read here and nowhere else, each with its type; a bad value is an error."""

import os
import re
import secrets
from pathlib import Path

from kvgpu.errors import ConfigError, UnknownNameError

DEFAULT_BACKEND = "host"
LARGEST = 2**31 - 1
"""Of tokens and blocks: they are counted in int32."""


def cache_dir() -> Path | None:
    """`KVGPU_CACHE_DIR`, else `$XDG_CACHE_HOME/kvgpu`, else `~/.cache/kvgpu`: compiled code.

    None where no variable is set and nobody knows the user's home.
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


def chosen_backend() -> str | None:
    """`KVGPU_BACKEND`, or None where it is not set."""
    return os.environ.get("KVGPU_BACKEND") or None


def backend_name() -> str:
    """The index backend of managers that are given none: `KVGPU_BACKEND`, else `host`."""
    return chosen_backend() or DEFAULT_BACKEND


def crossover_blocks() -> int | None:
    """`KVGPU_CROSSOVER_BLOCKS`: blocks from which `auto` asks the GPU; unset: measured.

    Raises:
        ConfigError: The value is no positive integer, or too large to be one.
    """
    return _integer("KVGPU_CROSSOVER_BLOCKS", os.environ.get("KVGPU_CROSSOVER_BLOCKS"), "blocks", 1)


def hash_threads() -> int:
    """`KVGPU_HASH_THREADS`: threads that hash the requests of one call; unset: 1.

    Raises:
        ConfigError: The value is no positive integer, or too large to be one.
    """
    return _integer("KVGPU_HASH_THREADS", os.environ.get("KVGPU_HASH_THREADS"), "threads", 1) or 1


def retention_interval() -> int | None:
    """`VLLM_PREFIX_CACHE_RETENTION_INTERVAL` in tokens; unset means dense retention.

    Raises:
        ConfigError: The value is no integer, or too large to be one.
    """
    return _integer(
        "VLLM_PREFIX_CACHE_RETENTION_INTERVAL",
        os.environ.get("VLLM_PREFIX_CACHE_RETENTION_INTERVAL"),
        "tokens",
        -LARGEST,
    )


def _integer(name: str, value: str | None, unit: str, lowest: int) -> int | None:
    """The number in a variable: ASCII digits, few enough for `int`, behind a sign at most."""
    if not value:
        return None
    if not re.fullmatch("[+-]?[0-9]{1,20}", value) or not lowest <= int(value) <= LARGEST:
        raise ConfigError(
            f"{name} must be an integer number of {unit} from {lowest} to {LARGEST}, "
            f"got {value if len(value) <= 40 else value[:40] + '...'!r}"
        )
    return int(value)


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
