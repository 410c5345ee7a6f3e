"""Faults planted into kernels for a while: Triton functions and CUDA sources with other text."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import triton

from kvgpu.kernels import cuda_engine


@contextmanager
def triton_fault(function: Any, callers: list[Any], right: str, wrong: str, folder: Path) -> Iterator[None]:
    """Replace a part of a Triton function; `callers` are all that call it, directly or not.

    What is compiled meanwhile is kept in `folder`, not where other runs would find it.
    """
    text = function.src
    assert text.count(right) == 1, right

    def change(source: str) -> None:
        function._unsafe_update_src(source)
        for caller in callers:
            # Triton calls these fields private; its own way to change a function leaves them to the caller.
            caller.hash = None
            caller.device_caches.clear()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton.knobs.cache, "dir", str(folder))
        change(text.replace(right, wrong))
        try:
            yield
        finally:
            change(text)


@contextmanager
def cuda_fault(file: str, right: str, wrong: str, folder: Path) -> Iterator[None]:
    """Replace a part of a CUDA source; the changed sources lie in `folder`."""
    for path in cuda_engine.SOURCES.iterdir():
        text = path.read_text()
        if path.name == file:
            assert text.count(right) == 1, right
            text = text.replace(right, wrong)
        (folder / path.name).write_text(text)
    cuda_engine._module.cache_clear()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cuda_engine, "SOURCES", folder)
            yield
    finally:
        cuda_engine._module.cache_clear()
