"""The rooms of the package lie on floors: imports go down, within a room, and never in a circle."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FLOORS = [
    {"errors", "layout"},
    {"environment", "console", "exclusive", "integers"},
    {"compiled", "config", "metrics", "native"},
    {"hashing.inputs", "rules"},
    {"hashing.bulk", "kernels.primitives"},
    {"hashing.kvgpu128", "hashing.serialised"},
    {"hashing", "kernels"},
    {"blocks", "device", "events", "request"},
    {"arguments", "eviction.state", "hashing.device", "index", "publishing"},
    {"block_tables", "eviction.policies", "index.host"},
    {"eviction"},
    {"pool"},
    {"block_pool"},
    {"batch.rows", "groups", "index.device"},
    {"coordinators"},
    {"allocation", "snapshot"},
    {"batch.step", "interface"},
    {"manager"},
    {"batch", "monitoring"},
    {"replay.traces", "report"},
    {"compare", "replay", "warmup"},
    {"vllm"},
    {"doctor"},
    {"cli"},
    {"__main__"},
]
"""From the ground up. A room is a file of kvgpu/ itself, or a folder; it may import from lower floors only."""

MOST_MODULES = 14
MOST_TESTS = 18
"""Modules of a folder, without `__init__`; more cannot be read at a glance."""


def sources():
    """Name behind `kvgpu.` -> file, of every module but the package itself."""
    found = {}
    for top, place in (("", ROOT / "kvgpu"), ("kernels.", ROOT / "kernels")):
        for path in place.rglob("*.py"):
            # kvgpu/kernels is a link to kernels/.
            parts = path.relative_to(place).with_suffix("").parts
            if not top and parts[0] == "kernels":
                continue
            name = top + ".".join(part for part in parts if part != "__init__")
            if name:
                found[name.rstrip(".")] = path
    return found


SOURCES = sources()
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(module):
    """The folder of a module, or itself in kvgpu/."""
    if SOURCES[module].name == "__init__.py":
        return module
    return module.rpartition(".")[0] or module


def imports_of(module):
    """Modules that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(SOURCES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kvgpu":
            place = (node.module or "").removeprefix("kvgpu").lstrip(".")
            for alias in node.names:
                inner = f"{place}.{alias.name}".lstrip(".")
                found.add(inner if inner in SOURCES else place)
        elif isinstance(node, ast.Import):
            found |= {a.name[6:] for a in node.names if a.name.startswith("kvgpu.")}
    return found & set(SOURCES)


IMPORTS = {module: imports_of(module) for module in SOURCES}


def test_every_room_has_a_floor():
    assert {room_of(module) for module in SOURCES} == set(FLOOR_OF)


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_imports_go_down(module):
    mine = FLOOR_OF[room_of(module)]
    upward = [
        other for other in IMPORTS[module] if room_of(other) != room_of(module) and FLOOR_OF[room_of(other)] >= mine
    ]
    assert upward == []


def test_no_files_import_each_other_in_a_circle():
    waiting = {module: set(others) - {module} for module, others in IMPORTS.items()}
    while free := {module for module, others in waiting.items() if not others}:
        waiting = {module: others - free for module, others in waiting.items() if module not in free}
    assert waiting == {}


def test_no_folder_is_too_full():
    rooms = {}
    for module, path in SOURCES.items():
        if path.name != "__init__.py":
            rooms.setdefault(path.parent.relative_to(ROOT).as_posix(), []).append(module)
    assert {name: len(modules) for name, modules in rooms.items() if len(modules) > MOST_MODULES} == {}


def test_no_folder_of_tests_and_benchmarks_is_too_full():
    folders = {path.parent for top in ("tests", "bench") for path in (ROOT / top).rglob("*.py")}
    sizes = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in folders}
    assert {name: size for name, size in sizes.items() if size > MOST_TESTS} == {}
