"""The cache of compiled code: Numba's output, in a folder that is named by a digest of all sources that went into it.

Numba's own cache checks only the file of the decorated function, so it keeps stale machine code if a constant in
another module changes. It loads pickles and machine code whoever wrote them, and a damaged file or a full disk is an
error. This cache reads only files that no other user can have written, and treats anything that is wrong with a file as
a miss: the code is compiled for this process, and written again if that is possible.
"""

import hashlib
import inspect
import itertools
import logging
import pickle
import re
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, cast

import numba
from numba.core import caching
from numba.core.serialize import dumps

from kvgpu.compiled.trusted_files import read_trusted, trusted_folder, write_whole
from kvgpu.environment import cache_dir

logger = logging.getLogger(__name__)

_COMPILED = re.compile(rb"^@(jit|nogil|inline|leaf)$", re.MULTILINE)
_IMPORTED = re.compile(rb"^from kvgpu\.([\w.]+) import", re.MULTILINE)

CHECKSUM_BYTES = 16


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
            self.tell(
                "compiled code is not kept%s, so every process compiles anew, for minutes: %s. "
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


@cache
def _sources_of(module: Path) -> Iterable[Path]:
    """Return the file of a module, or, for a package whose modules are imported by name, the files in its folder."""
    file = module.with_suffix(".py")
    return [file] if file.exists() else list(module.glob("*.py"))


def source_digest() -> str:
    """Digest the version of Numba and all sources whose functions or constants are compiled. O(bytes of kvgpu)."""
    package = Path(__file__).parent.parent
    sources = {path: path.read_bytes() for path in package.rglob("*.py")}
    compiled = {path for path, source in sources.items() if _COMPILED.search(source)}
    # Names that compiled modules import, above all constants, become part of the code.
    names = {name.decode() for path in compiled for name in _IMPORTED.findall(sources[path])}
    imported = {path for name in names for path in _sources_of(package.joinpath(*name.split(".")))}
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(compiled | imported):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def cache_of(function: Callable[..., Any]) -> Any:
    """Make the cache for the dispatcher of a function: on disk if there is a folder for it."""
    folder = code_folder()
    try:
        return caching.NullCache() if folder.path is None else CompiledCode(function, folder)
    except OSError:  # its source is not a file
        return caching.NullCache()


class CompiledCode(caching.FunctionCache):
    """Machine code of one function; an entry that cannot be read or written counts as missing."""

    def __init__(self, function: Callable[..., Any], folder: CodeFolder) -> None:
        assert folder.path is not None
        self._name, self._py_func = repr(function), function
        self._impl = _Results(function)
        self._cache_path = str(folder.path)
        stamp = self._impl.locator.get_source_stamp()
        files = _Overloads(folder.path, self._impl.filename_base, stamp)
        self._cache_file = cast(Any, files)  # not a subclass: it has only the methods that Numba calls
        self._folder = folder
        self.enable()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the code that was compiled for a signature and for this processor, or None."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # a damaged pickle may raise anything
            self._folder.tell(
                "compiled code in %s cannot be used and is compiled anew: %s",
                self._cache_path,
                str(error) or repr(error),
            )
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Store compiled code, if that is possible."""
        try:
            super().save_overload(sig, data)
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
        """Do nothing: the folder exists."""

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


class _Overloads:
    """The files of one function: an index, which maps a signature and a processor to a file, and these files.

    A file also holds its key: if two processes compile at once, one may overwrite the other's file or index.
    """

    def __init__(self, folder: Path, base: str, stamp: bytes) -> None:
        self._path = str(folder / base)
        self._stamp = stamp

    def load(self, key: Any) -> Any:
        """Return what is stored for a key, or None."""
        name = self._index().get(key)
        if name is None:
            return None
        try:
            kept, data = _read(self._file(name))
        except FileNotFoundError:
            return None
        return data if kept == key else None

    def save(self, key: Any, data: Any) -> None:
        """Store something for a key, in place of what was stored before."""
        try:
            numbers = self._index()
        except Exception:  # damaged or not trusted: `load` has reported it
            numbers = {}
        taken = set(numbers.values())
        free = next(number for number in itertools.count(1) if number not in taken)
        number = numbers.setdefault(key, free)
        _write(self._file(number), (key, data))
        if number == free:
            self._write_index(numbers)

    def flush(self) -> None:
        """Forget everything that is stored."""
        self._write_index({})

    def _file(self, number: int) -> str:
        return f"{self._path}.{number}.nbc"

    def _index(self) -> dict[Any, int]:
        """Return the index, key -> number of its file; an empty one if it was written for another source."""
        try:
            stamp, numbers = _read(f"{self._path}.nbi")
        except FileNotFoundError:
            return {}
        return numbers if stamp == self._stamp else {}

    def _write_index(self, numbers: dict[Any, int]) -> None:
        _write(f"{self._path}.nbi", (self._stamp, numbers))


@cache
def _digest_of_file(path: str) -> bytes:
    return hashlib.sha256(Path(path).read_bytes()).digest()


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=CHECKSUM_BYTES).digest()


def _read(path: str) -> Any:
    """Read an object that `_write` has written.

    The checksum does not defend against an attacker; the check of who may write does. The checksum finds files that
    were cut short, and machine code that a power cut has damaged, which LLVM would run unchecked.
    """
    content = read_trusted(path)
    checksum, data = content[:CHECKSUM_BYTES], content[CHECKSUM_BYTES:]
    if checksum != _checksum(data):
        raise ValueError(f"{path} is damaged")
    return pickle.loads(data)


def _write(path: str, value: Any) -> None:
    data: bytes = dumps(value)
    write_whole(path, _checksum(data) + data)
