"""The cache of compiled code: Numba's output, in a folder that is named by a digest of all sources that went into it.

Numba's own cache checks only the file of the decorated function, so it keeps stale machine code if a constant in
another module changes. It loads pickles and machine code whoever wrote them, and a damaged file or a full disk is an
error. This cache reads only files that no other user can have written, and treats anything that is wrong with a file as
a miss: the code is compiled for this process, and written again if that is possible.
"""

import hashlib
import inspect
import logging
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

from numba.core import caching

from kvgpu.compiled.code_files import CodeFiles
from kvgpu.compiled.shipped import key_of_shipped, shipped_folder
from kvgpu.compiled.source_digest import source_digest
from kvgpu.compiled.trusted_files import read_trusted, trusted_folder
from kvgpu.environment import cache_dir

logger = logging.getLogger(__name__)


class CodeFolder:
    """The folder in which this process stores compiled code.

    path: The folder, which exists and is trusted; None if code is compiled for this process only. problem: why.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        self.problem: str | None = None
        self._level = logging.WARNING
        configured = cache_dir()
        try:
            if configured is None:
                raise FileNotFoundError("there is no home directory")
            self.path = trusted_folder(configured / f"numba-{source_digest()}")
        except OSError as error:
            self.problem = str(error)
            if shipped_folder() is None:
                self.tell(
                    "compiled code is not kept%s, so every process compiles anew: %s. "
                    "Set KVGPU_CACHE_DIR to a folder that only you can write.",
                    "" if configured is None else f" in {configured}",
                    error,
                )

    def tell(self, message: str, *arguments: object) -> None:
        """Warn once in a process: a problem with one file is likely to recur with the next."""
        logger.log(self._level, message, *arguments)
        self._level = logging.INFO


@cache
def code_folder() -> CodeFolder:
    """Return the folder of this process; the first call checks it and makes it."""
    return CodeFolder()


def cache_of(function: Callable[..., Any]) -> Any:
    """Make the cache for the dispatcher of a function: on disk if there is a folder for it."""
    try:
        return CompiledCode(function, code_folder(), shipped_folder())
    except OSError:  # its source is not a file
        return caching.NullCache()


class CompiledCode(caching.FunctionCache):
    """Machine code of one function; an entry that cannot be read or written counts as missing.

    Code that was compiled for this very processor goes before code that came with kvgpu.
    """

    def __init__(self, function: Callable[..., Any], folder: CodeFolder, shipped: Path | None) -> None:
        self._name, self._py_func = repr(function), function
        self._impl = _Results(function)
        self._cache_path = cast(str, folder.path and str(folder.path))
        self._folder = folder
        base, stamp = self._impl.filename_base, self._impl.locator.get_source_stamp()
        self._own = folder.path and CodeFiles(folder.path / base, stamp, read_trusted)
        # Whoever may write there may write the sources as well.
        self._shipped = shipped and CodeFiles(shipped / base, stamp, lambda path: Path(path).read_bytes())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the code that was compiled for a signature and for this processor, or None."""
        target_context.refresh()
        key = self._index_key(sig, target_context.codegen())
        for files in (self._own, self._shipped):
            if not files:
                continue
            try:
                if (data := files.load(key if files is self._own else key_of_shipped(key))) is not None:
                    return self._impl.rebuild(target_context, data)
            except Exception as error:  # a damaged pickle may raise anything
                self._folder.tell(
                    "compiled code in %s cannot be used and is compiled anew: %s",
                    files.folder,
                    str(error) or repr(error),
                )
        return None

    def flush(self) -> None:
        """Forget what processes have compiled."""
        if self._own:
            self._own.flush()

    def save_overload(self, sig: Any, data: Any) -> None:
        """Store compiled code, if that is possible."""
        if not self._own:
            self._folder.tell("compiled code is not kept: %s. Set KVGPU_CACHE_DIR.", self._folder.problem)
            return
        try:
            if self._impl.check_cachable(data):
                key = self._index_key(sig, data.codegen)
                self._own.save(key, self._impl.reduce(data))
        except Exception as error:  # this process has the code and can use it
            self._folder.tell(
                "compiled code cannot be written to %s, so the next process compiles anew: %s. "
                "Set KVGPU_CACHE_DIR to a folder that only you can write.",
                self._cache_path,
                str(error) or repr(error),
            )


class _Locator(caching._CacheLocator):
    """Answers Numba's questions about where a function lies; the folder has been made and checked before."""

    def __init__(self, source: str, line: int) -> None:
        self._py_file, self._line = source, line

    def ensure_cache_path(self) -> None:
        """Do nothing: nothing calls this, and the folder exists."""

    def get_cache_path(self) -> str:
        """Raise an error: nothing calls this, because `CompiledCode` knows the path."""
        raise NotImplementedError

    def get_source_stamp(self) -> bytes:
        """Return a digest of the function's file, which need not belong to kvgpu."""
        return _digest_of_file(self._py_file)

    def get_disambiguator(self) -> str:
        """Return the number of the line where the function begins."""
        return str(self._line)


class _Results(caching.CompileResultCacheImpl):
    """Converts between a function's code and what Numba writes, under a name that does not depend on kvgpu's path."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._lineno = function.__code__.co_firstlineno
        self._locator = _Locator(inspect.getfile(function), self._lineno)
        self._filename_base = self.get_filename_base(f"{function.__module__}.{function.__qualname__}", sys.abiflags)


@cache
def _digest_of_file(path: str) -> bytes:
    return hashlib.sha256(Path(path).read_bytes()).digest()
