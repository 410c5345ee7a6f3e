"""Empty CUDA libraries beside PyTorch, whose wheel for CUDA can then be imported without gigabytes of real ones.

    python tests/support/device/cuda_stubs.py

Run by the interpreter whose PyTorch it is, where gcc and binutils are. Libraries that are there stay; every function of
the others returns 1, and none is called as long as there is no GPU.
"""

import re
import subprocess
import tempfile
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

OF_CUDA = "cu|nccl|nvshmem|nvrtc|__cuda"
DRIVER = "libcuda.so.1"
"""Opened only where there is one."""
ANY = "libcudnn.so.9"
"""Has the functions whose library nobody names."""


def printed(*command: str | Path) -> str:
    """Standard output of a command."""
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=True).stdout


def wanted(libraries: list[Path]) -> dict[str, dict[str, set[str]]]:
    """Libraries of CUDA that these are linked to -> version -> functions that they look for."""
    names, functions, own = set(), set(), set()
    for library in libraries:
        names |= set(re.findall(rf"NEEDED.*\[(lib(?:{OF_CUDA})[^\]]*)\]", printed("readelf", "-d", library)))
        own |= set(re.findall(r" [A-Zi] (\w+)", printed("nm", "-D", "--defined-only", library)))
        looked_for = printed("nm", "-D", "--undefined-only", library)
        functions |= set(re.findall(rf" [Uw] ((?:{OF_CUDA})\w*)(?:@(\S+))?$", looked_for, re.M))
    found: dict[str, dict[str, set[str]]] = {name: defaultdict(set) for name in names - {DRIVER}}
    for function, version in functions:
        if function not in own:
            found[version if version in found else ANY][version].add(function)
    return found


def make(path: Path, functions: dict[str, set[str]]) -> None:
    """Compile a library with functions of these versions."""
    code = "".join(f"int {name}(void) {{ return 1; }}\n" for name in set().union(*functions.values()))
    versions = {version: names for version, names in functions.items() if version}
    script = "".join(f"{version} {{ global: {'; '.join(names)}; }};\n" for version, names in versions.items())
    with tempfile.TemporaryDirectory() as folder:
        source, versioned = Path(folder, "stub.c"), Path(folder, "stub.map")
        source.write_text(code)
        versioned.write_text(script)
        options = [f"-Wl,--version-script={versioned}"] if script else []
        shared = ("-shared", "-nostdlib", "-fPIC", "-fno-builtin", "-w", f"-Wl,-soname,{path.name}")
        printed("gcc", *shared, *options, source, "-o", path)


def main() -> None:
    """Make those that are missing."""
    torch = find_spec("torch")
    assert torch is not None, "PyTorch is not installed"
    assert torch.origin is not None
    package = Path(torch.origin).parent
    folder = package.parent / "nvidia" / "cu13" / "lib"
    folder.mkdir(parents=True, exist_ok=True)
    for name, functions in wanted(sorted((package / "lib").glob("lib*.so"))).items():
        if not (folder / name).exists():
            make(folder / name, functions)


if __name__ == "__main__":
    main()
