"""The cache of compiled code: what Numba made, in a folder named by a digest of all sources that went into it.

Numba's own cache looks at the file of the decorated function only, so a changed constant in another module leaves stale
machine code behind; it loads pickles and machine code whoever wrote them; and a damaged file or a full disk is an
error. Here only files are read that nobody else can have written, and whatever is wrong with one is no more than a
miss: code is compiled for this process, and written anew where that can be.
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
    """Where this process keeps compiled code.

    path: The folder, which is there and trusted; None where code is compiled for this process only. problem: why.
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
                "Let KVGPU_CACHE_DIR name a folder that you can write and nobody else can.",
                "" if configured is None else f" in {configured}",
                error,
            )

    def tell(self, message: str, *arguments: object) -> None:
        """Warn, once in a process: what is wrong with one file tends to be wrong with the next."""
        logger.log(self._level, message, *arguments)
        self._level = logging.INFO


@cache
def code_folder() -> CodeFolder:
    """The folder of this process; looked at, and made, in the first call."""
    return CodeFolder()


@cache
def _sources_of(module: Path) -> Iterable[Path]:
    """The file of a module, or those directly in the folder of a package, whose modules are imported by name."""
    file = module.with_suffix(".py")
    return [file] if file.exists() else module.glob("*.py")


def source_digest() -> str:
    """Names the version of Numba and of all sources whose functions or constants are compiled. O(bytes of kvgpu)."""
    package = Path(__file__).parent.parent
    sources = {path: path.read_bytes() for path in package.rglob("*.py")}
    compiled = {path for path, source in sources.items() if _COMPILED.search(source)}
    # What is imported by name becomes part of the code: constants above all.
    names = {name.decode() for path in compiled for name in _IMPORTED.findall(sources[path])}
    imported = {path for name in names for path in _sources_of(package.joinpath(*name.split(".")))}
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(compiled | imported):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def cache_of(function: Callable[..., Any]) -> Any:
    """The cache for the dispatcher of a function: one on disk where there is a folder for it."""
    folder = code_folder()
    try:
        return caching.NullCache() if folder.path is None else CompiledCode(function, folder)
    except OSError:  # its source is no file
        return caching.NullCache()


class CompiledCode(caching.FunctionCache):
    """Machine code of one function; an entry that cannot be used, or written, is one that is not there."""

    def __init__(self, function: Callable[..., Any], folder: CodeFolder) -> None:
        assert folder.path is not None
        self._name, self._py_func = repr(function), function
        self._impl = _Results(function)
        self._cache_path = str(folder.path)
        stamp = self._impl.locator.get_source_stamp()
        files = _Overloads(folder.path, self._impl.filename_base, stamp)
        self._cache_file = cast(Any, files)  # no subclass: what Numba calls is all that it has
        self._folder = folder
        self.enable()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What was compiled for a signature and for this processor, or None."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # what a damaged pickle raises is beyond listing
            self._folder.tell(
                "compiled code in %s cannot be used and is compiled anew: %s",
                self._cache_path,
                str(error) or repr(error),
            )
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled, where that is possible."""
        try:
            super().save_overload(sig, data)
        except Exception as error:  # the code itself is there, and can be used
            self._folder.tell(
                "compiled code cannot be written to %s, so the next process compiles anew: %s. "
                "Let KVGPU_CACHE_DIR name a folder that you can write and nobody else can.",
                self._cache_path,
                str(error) or repr(error),
            )


class _Locator(caching._CacheLocator):
    """What Numba asks about the place of a function; the folder is made and trusted before anybody asks."""

    def __init__(self, source: str, line: int) -> None:
        self._py_file, self._line = source, line

    def ensure_cache_path(self) -> None:
        """Nothing is left to do."""

    def get_cache_path(self) -> str:
        """Not asked: `CompiledCode` knows."""
        raise NotImplementedError

    def get_source_stamp(self) -> bytes:
        """Digest of the file of the function, which need not be one of kvgpu's."""
        return _digest_of_file(self._py_file)

    def get_disambiguator(self) -> str:
        """The line where the function begins."""
        return str(self._line)


class _Results(caching.CompileResultCacheImpl):
    """What Numba writes of a function and makes of it, under a name that holds wherever kvgpu lies."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._lineno = function.__code__.co_firstlineno
        self._locator = _Locator(inspect.getfile(function), self._lineno)
        self._filename_base = self.get_filename_base(f"{function.__module__}.{function.__qualname__}", sys.abiflags)


class _Overloads:
    """Files of one function: an index, from a signature and a processor to a file, and these files.

    A file holds its key, too: of two processes that compile at once one may have overwritten the other's file,
    or its index.
    """

    def __init__(self, folder: Path, base: str, stamp: bytes) -> None:
        self._path = str(folder / base)
        self._stamp = stamp

    def load(self, key: Any) -> Any:
        """What is kept for a key, or None."""
        name = self._index().get(key)
        if name is None:
            return None
        try:
            kept, data = _read(self._file(name))
        except FileNotFoundError:
            return None
        return data if kept == key else None

    def save(self, key: Any, data: Any) -> None:
        """Keep something for a key, in place of what was there."""
        try:
            numbers = self._index()
        except Exception:  # damaged, or not to be trusted: `load` has said so
            numbers = {}
        taken = set(numbers.values())
        free = next(number for number in itertools.count(1) if number not in taken)
        number = numbers.setdefault(key, free)
        _write(self._file(number), (key, data))
        if number == free:
            self._write_index(numbers)

    def flush(self) -> None:
        """Forget everything that is kept."""
        self._write_index({})

    def _file(self, number: int) -> str:
        return f"{self._path}.{number}.nbc"

    def _index(self) -> dict[Any, int]:
        """Key -> number of its file; of another source there is none."""
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
    """An object that `_write` has written.

    The checksum is no defence, trust is: it finds what was cut short, and what a power cut has left of code that LLVM
    would take as it is.
    """
    content = read_trusted(path)
    checksum, data = content[:CHECKSUM_BYTES], content[CHECKSUM_BYTES:]
    if checksum != _checksum(data):
        raise ValueError(f"{path} is damaged")
    return pickle.loads(data)


def _write(path: str, value: Any) -> None:
    data: bytes = dumps(value)
    write_whole(path, _checksum(data) + data)
