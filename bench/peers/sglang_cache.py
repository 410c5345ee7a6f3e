"""SGLang 0.5.23's RadixCache for benchmarks that run beside it, without a GPU and without its dependencies."""

import importlib
import importlib.machinery
import sys
import types
from array import array
from collections.abc import Sequence
from typing import Any, ClassVar

NAME = "sglang 0.5.23"


class _Stub(types.ModuleType):
    """Stands for a package that is not installed; anything may be asked of it."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        stub = _Stub(f"{self.__name__}.{name}")
        setattr(self, name, stub)
        return stub

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self


class _Stubs:
    """Finds a stub for every package in `missing`."""

    def __init__(self) -> None:
        self.missing = {"torchvision"}

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name.split(".")[0] in self.missing:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Stub(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run."""


def _radix_module() -> Any:
    """The module of the radix cache; what it imports and is not installed becomes a stub."""
    import torch
    import torch.utils.flop_counter  # before there is a stub of triton

    importlib.import_module("transformers.models.auto.processing_auto")
    stubs = _Stubs()
    sys.meta_path.insert(0, stubs)  # type: ignore[arg-type]
    compiles, torch.compile = torch.compile, lambda model=None, **_: model or (lambda m: m)
    try:
        while True:
            try:
                return importlib.import_module("sglang.srt.mem_cache.radix_cache")
            except ModuleNotFoundError as error:
                package = str(error.name).split(".")[0]
                if package == "sglang" or package in stubs.missing:
                    raise
                stubs.missing.add(package)
                for name in [name for name in sys.modules if name.startswith("sglang")]:
                    del sys.modules[name]
    finally:
        torch.compile = compiles
        sys.meta_path.remove(stubs)  # type: ignore[arg-type]


class _Allocator:
    """Takes back what the cache lets go of."""

    def __init__(self) -> None:
        import torch

        self.device = torch.device("cpu")

    def free(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to do."""

    free_segment = free_group_begin = free_group_end = free


class RadixCache:
    """One radix cache with pages of 16 tokens.

    Raises:
        ImportError: SGLang is not on the path.
    """

    def __init__(self, page_size: int = 16) -> None:
        import torch

        self._module = _radix_module()
        self._torch = torch
        self._page_size = page_size
        self.clear()

    def clear(self) -> None:
        """Begin with an empty cache."""
        made = self._module.RadixCache
        self._cache = made.create_simulated(mock_allocator=_Allocator(), page_size=self._page_size)

    def keys(self, prompts: Sequence[list[int]]) -> list[Any]:
        """Prompts as the cache takes them."""
        return [self._module.RadixKey(array("q", tokens)) for tokens in prompts]

    def slots(self, key: Any) -> Any:
        """Slots of a whole prompt, in the place of an engine's allocator."""
        return self._torch.arange(len(key))

    def match(self, key: Any) -> int:
        """Tokens of the longest cached prefix."""
        params = self._module.MatchPrefixParams(key=key)
        return int(self._cache.match_prefix(params).device_prefix_len)

    def replay(self, keys: Sequence[Any]) -> list[int]:
        """Match each prompt, make slots for it and insert it; the tokens that hit."""
        hits = []
        for key in keys:
            hits.append(self.match(key))
            self.insert(key, self.slots(key))
        return hits

    def insert(self, key: Any, value: Any) -> None:
        """Cache a whole prompt."""
        self._cache.insert(self._module.InsertParams(key=key, value=value))


def sglang_cache(asked_for: bool) -> RadixCache | None:
    """A cache, or None where SGLang cannot be imported.

    Raises:
        ImportError: It cannot, although it was asked for.
    """
    try:
        return RadixCache()
    except ImportError as error:
        if asked_for:
            raise
        print(f"SGLang cannot be imported, its rows are left out: {error}", file=sys.stderr)
        return None
