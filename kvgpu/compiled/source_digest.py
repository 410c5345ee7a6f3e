"""The digest of all sources that machine code is made of: it names the folders of compiled code."""

import hashlib
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numba

_COMPILED = re.compile(rb"^@(jit|nogil|inline|leaf)$", re.MULTILINE)
_IMPORTED = re.compile(rb"^from kvgpu\.([\w.]+) import", re.MULTILINE)


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
    compiled.add(package / "compiled" / "jit.py")  # what it imports says how all others are compiled
    # Names that compiled modules import, above all constants, become part of the code.
    names = {name.decode() for path in compiled for name in _IMPORTED.findall(sources[path])}
    imported = {path for name in names for path in _sources_of(package.joinpath(*name.split(".")))}
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(compiled | imported):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]
