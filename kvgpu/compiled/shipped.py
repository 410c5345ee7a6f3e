"""Compiled code that comes with kvgpu, in a wheel: with it a fresh machine compiles nothing.

It is made for all processors of a level, where code that a process compiles is made for the one that it runs on. It is
used if it was made of the same sources by the same versions of Python and Numba, and if the processor has the level.
"""

import platform
from functools import cache
from pathlib import Path
from typing import Any, cast

import llvmlite.binding
import numba

from kvgpu.compiled.source_digest import source_digest

SHIPPED = Path(__file__).parent / "code"

LEVEL = "x86-64-v3"
"""Haswell and Zen, and all that came later: each server into which a GPU is put that kvgpu has kernels for."""
FEATURES = (
    "avx", "avx2", "bmi", "bmi2", "cx16", "f16c", "fma", "lzcnt", "movbe", "popcnt", "sahf", "sse4.1", "sse4.2", "ssse3"
)  # fmt: skip
"""What the level has, in LLVM's words."""

_LISTED = ",".join(f"+{feature}" for feature in FEATURES)


@cache
def shipped_folder() -> Path | None:
    """Return the folder of code that came with kvgpu and can be used here; None if there is none.

    Who tells Numba for which processor to compile, or without which instructions, gets what was asked for.
    """
    config: Any = cast(Any, numba).config
    asked = config.CPU_NAME is not None or config.CPU_FEATURES is not None or not config.ENABLE_AVX
    if asked or not SHIPPED.is_dir() or not has_level():
        return None
    folder = SHIPPED / f"numba-{source_digest()}"
    return folder if folder.is_dir() else None


def has_level() -> bool:
    """Return whether the processor has all that shipped code may use."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    here = llvmlite.binding.get_host_cpu_features()
    return all(here.get(feature) for feature in FEATURES)


def variables_of_level(folder: Path) -> dict[str, str]:
    """Return the environment of a process that compiles for the level, into a folder."""
    return {"NUMBA_CPU_NAME": LEVEL, "NUMBA_CPU_FEATURES": _LISTED, "KVGPU_CACHE_DIR": str(folder)}


def key_of_shipped(key: Any) -> Any:
    """Return the key of shipped code, for the key of what this process would compile.

    Args:
        key: Signature; triple, processor and features; digests of the function.
    """
    signature, (triple, _, _), digests = key
    return signature, (triple, LEVEL, _LISTED), digests
