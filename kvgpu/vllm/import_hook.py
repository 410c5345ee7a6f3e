"""Runs code when a module is imported, so that a process that never imports it pays nothing."""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

Callback = Callable[[ModuleType], None]


class _Hook(MetaPathFinder):
    """Finds nothing itself: it lets the other finders find a module, and has its callback run once it is there."""

    def __init__(self) -> None:
        self.waiting: dict[str, Callback] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        callback = self.waiting.pop(fullname, None)
        if callback is None:
            return None
        spec = find_spec(fullname)
        if spec is None or spec.loader is None:
            self.waiting[fullname] = callback
            return spec
        loader: Any = spec.loader
        run = loader.exec_module

        def run_and_call(module: ModuleType) -> None:
            run(module)
            callback(module)

        loader.exec_module = run_and_call  # of this module only: each has a loader of its own
        return spec


_hook = _Hook()


def when_imported(name: str, callback: Callback) -> None:
    """Call `callback` with a module: now if it has been imported, else as soon as it is. O(1).

    A second call for a module that is still to come replaces the first.
    """
    module = sys.modules.get(name)
    if module is not None:
        callback(module)
        return
    _hook.waiting[name] = callback
    if _hook not in sys.meta_path:
        sys.meta_path.insert(0, _hook)
