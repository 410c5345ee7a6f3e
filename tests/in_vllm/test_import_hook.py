"""Code that waits for a module is called once the module is there, and not before."""

import importlib
import sys

import pytest

from kvgpu.vllm import import_hook
from kvgpu.vllm.import_hook import when_imported


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Name of a module that nobody has imported."""
    (tmp_path / "awaited.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "awaited"
    sys.modules.pop("awaited", None)
    import_hook._hook.waiting.clear()
    sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not import_hook._hook]


def test_it_is_called_with_a_module_whose_code_has_run(module):
    seen = []
    when_imported(module, lambda found: seen.append((found.__name__, found.value)))
    assert seen == []
    importlib.import_module(module)
    assert seen == [("awaited", 1)]


def test_it_is_called_at_once_if_the_module_is_there(module):
    importlib.import_module(module)
    seen = []
    when_imported(module, seen.append)
    assert seen == [sys.modules[module]]


def test_what_it_sets_is_what_importers_see(module):
    when_imported(module, lambda found: vars(found).update(value=2))
    assert importlib.import_module(module).value == 2


def test_it_is_called_once_however_often_it_is_asked_for(module):
    seen = []
    for _ in range(3):
        when_imported(module, seen.append)
    importlib.import_module(module)
    importlib.reload(sys.modules[module])
    assert len(seen) == 1


def test_a_module_that_does_not_exist_is_waited_for(module, tmp_path):
    seen = []
    when_imported("awaited_too", seen.append)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("awaited_too")
    (tmp_path / "awaited_too.py").write_text("")
    importlib.invalidate_caches()
    importlib.import_module("awaited_too")
    assert len(seen) == 1
    del sys.modules["awaited_too"]
