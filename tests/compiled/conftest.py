"""Fixtures for compiled code on disk: its folder, starts that compile or load it, and another user."""

import pytest
from support.compiled_code import Start, add
from support.other_owner import OtherOwner

from kvgpu.compiled import cache as compiled_cache
from kvgpu.compiled import jit as _jit


@pytest.fixture
def kept_in(tmp_path, monkeypatch):
    """The folder that is configured, which is not there."""
    monkeypatch.setenv("KVGPU_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def start(kept_in, caplog):
    """Compiles, or loads, and calls as a new process would; twice with `floats`, for two signatures."""

    def first_call(floats=False):
        compiled_cache.code_folder.cache_clear()
        caplog.clear()
        compiled = _jit.jit(add)
        assert compiled(1, 2) == 3
        assert not floats or compiled(0.25, 0.5) == 0.75
        return Start(compiled_cache.code_folder().path, compiled, caplog.records)

    yield first_call
    compiled_cache.code_folder.cache_clear()


@pytest.fixture
def stranger(monkeypatch):
    """Gives files and folders to another user."""
    return OtherOwner(monkeypatch)
