"""`jit`: Numba's njit with a disk cache that notices every changed source.

Numba's own cache looks at the file of the decorated function only, so a changed constant in
another module leaves stale machine code behind. Here the cache directory is named by a digest of
all sources that hold compiled code.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from kvgpu.config import cache_dir

_COMPILED = re.compile(r"^@(jit|inline)$", re.MULTILINE)
_IMPORTED = re.compile(r"^from kvgpu\.([\w.]+) import", re.MULTILINE)

F = TypeVar("F", bound=Callable[..., Any])


@cache
def _source_digest() -> str:
    package = Path(__file__).parent
    digest = hashlib.sha256(f"{numba.__version__}".encode())
    compiled = {path for path in package.rglob("*.py") if _COMPILED.search(path.read_text())}
    # What is imported by name becomes part of the code: constants above all.
    imported = {
        package.joinpath(*module.split(".")).with_suffix(".py")
        for path in compiled
        for module in _IMPORTED.findall(path.read_text())
    }
    for path in sorted(compiled | imported):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def _numba_cache_dir() -> str:
    directory = cache_dir() / f"numba-{_source_digest()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if os.access(directory, os.W_OK):
            return str(directory)
    except OSError:
        pass
    return tempfile.mkdtemp(prefix="kvgpu-numba-")


def jit(function: F) -> F:
    """Compile an entry point that Python calls; the machine code is kept on disk."""
    settings: Any = numba.config
    previous = settings.CACHE_DIR
    settings.CACHE_DIR = _numba_cache_dir()
    try:
        return cast(F, numba.njit(cache=True, error_model="numpy")(function))
    finally:
        settings.CACHE_DIR = previous


def inline(function: F) -> F:
    """Compile a helper that only compiled code calls; it becomes part of its callers.

    Forced: a call that is not inlined copies its arrays' headers and counts references, which
    makes a probe three times as slow (measured: 31 against 11 ns a hit).
    """
    return cast(F, numba.njit(error_model="numpy", forceinline=True)(function))


@intrinsic
def _prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Start loading element or row `index` (int64) of a C-contiguous array into the cache.

    A loop that calls this some rounds ahead overlaps cache misses that would come one by one.
    """

    lowering: Any = cgutils

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_type, index_type = signature.args
        header = context.make_array(array_type)(context, builder, arguments[0])
        index = context.cast(builder, arguments[1], index_type, types.intp)
        stride = lowering.unpack_tuple(builder, header.strides)[0]
        address = lowering.pointer_add(builder, header.data, builder.mul(index, stride))
        word = ir.IntType(32)
        hint = lowering.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [lowering.voidptr_t, word, word, word]),
            "llvm.prefetch.p0",
        )
        for_reading, keep, data = word(0), word(3), word(1)
        address = builder.bitcast(address, lowering.voidptr_t)
        builder.call(hint, [address, for_reading, keep, data])
        return context.get_dummy_value()

    return types.void(array, index), generate


prefetch: Callable[[Any, int], None] = cast(Any, _prefetch)


def python_of(function: F) -> F:
    """The plain Python function behind a compiled one (the function itself under NUMBA_DISABLE_JIT)."""
    return cast(F, getattr(function, "py_func", function))
