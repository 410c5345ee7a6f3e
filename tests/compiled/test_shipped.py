"""Compiled code that came with kvgpu: where it is used, and where code is compiled in its place."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import pytest
import support.compiled_code
from support.compiled_code import FILES, files_below

import kvgpu
from kvgpu.compiled import cache as compiled_cache
from kvgpu.compiled import shipped
from kvgpu.compiled.cache import code_folder

COMPILE = "from kvgpu.compiled.jit import jit; from support.compiled_code import add; assert jit(add)(1, 2) == 3"
PATHS = [str(Path(module.__file__).resolve().parents[1]) for module in (kvgpu, support.compiled_code)]

pytestmark = pytest.mark.skipif(not shipped.has_level(), reason=f"the processor is no {shipped.LEVEL}")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """What a build leaves: `add`, compiled for every processor of the level."""
    folder = tmp_path_factory.mktemp("code")
    variables = {**os.environ, **shipped.variables_of_level(folder), "PYTHONPATH": os.pathsep.join(PATHS)}
    subprocess.run([sys.executable, "-c", COMPILE], env=variables, check=True)
    return folder


@pytest.fixture
def came_with(monkeypatch):
    """Puts a folder in the place of that of the package."""

    def put(folder):
        monkeypatch.setattr(shipped, "SHIPPED", folder)
        shipped.shipped_folder.cache_clear()

    yield put
    shipped.shipped_folder.cache_clear()


def test_it_is_loaded_and_nothing_is_kept(start, built, came_with):
    came_with(built)
    run = start()
    assert (run.hits, run.warnings) == (1, [])
    assert files_below(run.folder) == []


def test_a_signature_that_did_not_come_is_compiled_and_kept(start, built, came_with):
    came_with(built)
    assert start(floats=True).hits == 1
    assert start(floats=True).hits == 2


def test_it_is_used_where_no_code_can_be_kept(start, kept_in, built, came_with):
    kept_in.write_text("a file")
    came_with(built)
    run = start()
    assert (run.folder, run.hits, run.warnings) == (None, 1, [])


def test_other_sources_have_none(start, built, came_with, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "numba-0123456789abcdef").symlink_to(next(built.iterdir()))
    came_with(tmp_path / "other")
    assert start().hits == 0


@pytest.mark.parametrize("lacking", shipped.FEATURES)
def test_a_processor_that_lacks_a_part_of_the_level_compiles(start, built, came_with, monkeypatch, lacking):
    here = dict(shipped.llvmlite.binding.get_host_cpu_features())
    monkeypatch.setattr(shipped.llvmlite.binding, "get_host_cpu_features", lambda: here | {lacking: False})
    came_with(built)
    assert start().hits == 0


def test_a_processor_of_another_kind_compiles(start, built, came_with, monkeypatch):
    monkeypatch.setattr(shipped.platform, "machine", lambda: "aarch64")
    came_with(built)
    assert start().hits == 0


@pytest.mark.parametrize(("name", "value"), [("CPU_NAME", "generic"), ("CPU_FEATURES", "-avx2"), ("ENABLE_AVX", 0)])
def test_who_asks_for_a_processor_gets_code_for_it(built, came_with, monkeypatch, name, value):
    monkeypatch.setattr(numba.config, name, value)
    came_with(built)
    assert shipped.shipped_folder() is None


def test_where_no_code_can_be_kept_what_did_not_come_is_said_once(start, kept_in, built, came_with):
    kept_in.write_text("a file")
    came_with(built)
    run = start(floats=True)
    (warning,) = run.warnings
    assert "compiled code is not kept" in warning


def test_a_numba_with_other_keys_compiles(start, built, came_with, monkeypatch):
    came_with(built)
    key_of = compiled_cache.CompiledCode._index_key
    monkeypatch.setattr(compiled_cache.CompiledCode, "_index_key", lambda *given: (*key_of(*given), "more"))
    assert start().hits == 0


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_said_and_its_code_compiled(start, built, came_with, tmp_path, file):
    copy = tmp_path / "copy" / next(built.iterdir()).name
    copy.mkdir(parents=True)
    for path in next(built.iterdir()).iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    path = FILES[file](copy)
    path.write_bytes(path.read_bytes()[:-1])
    came_with(copy.parent)
    run = start()
    assert run.hits == 0
    (warning,) = run.warnings
    assert str(copy) in warning
    assert code_folder().path == run.folder
    assert start().hits == 1
