"""Packages that kvgpu uses and that a machine with a GPU may lack: what needs a missing one is skipped, and says so."""

import re
from collections.abc import Generator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest


def _is_lacked(name: str) -> bool:
    try:
        return find_spec(name) is None
    except ModuleNotFoundError:  # hidden by a test
        return True


LACKED = frozenset(filter(_is_lacked, ("cbor2", "msgspec", "prometheus_client", "tqdm", "zmq")))
"""Those that are not installed: none where `make venv` has been run."""


def _reason(name: str) -> str:
    return f"{name} is not installed"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                yield from _causes(inner)
        error = error.__cause__


def lacked_by(error: BaseException) -> str | None:
    """What to say of a test that fails with this error for want of a package; None: it fails for another reason."""
    names = (cause.name for cause in _causes(error) if isinstance(cause, ModuleNotFoundError))
    return next((_reason(name) for name in names if name in LACKED), None)


def lacked_in(stderr: str) -> str | None:
    """What to say of a process that failed with these words for want of a package."""
    names = re.findall(r"^ModuleNotFoundError: No module named '(\w+)'$", stderr, re.M)
    return next((_reason(name) for name in names if name in LACKED), None)


def needs(*names: str) -> pytest.MarkDecorator:
    """Mark of tests that start processes in which these packages are used."""
    missing = [_reason(name) for name in names if name in LACKED]
    return pytest.mark.skipif(bool(missing), reason=", ".join(missing))


class Module(pytest.Module):
    """A file of tests, skipped if it cannot be imported for want of a package."""

    def collect(self) -> Any:
        """Its tests."""
        try:
            return super().collect()
        except self.CollectError as error:
            why = lacked_by(error)
            if why is None:
                raise
            pytest.skip(why, allow_module_level=True)


class Skips:
    """pytest plugin: tests that fail for want of a package are skipped."""

    def pytest_pycollect_makemodule(self, module_path: Path, parent: Any) -> Any:
        return Module.from_parent(parent, path=module_path)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self) -> Generator[None, Any, Any]:
        return (yield from _skipping())

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, Any, Any]:
        return (yield from _skipping())


def _skipping() -> Generator[None, Any, Any]:
    try:
        return (yield)
    except Exception as error:
        why = lacked_by(error)
        if why is None:
            raise
        pytest.skip(why)
