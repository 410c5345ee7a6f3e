"""A stand-in for what CUDA's driver knows of the second-level cache: `on_gpu.designs.cache_window` calls it."""

from typing import Any


class CacheDriver:
    """CUDA's driver, in which the functions that are `failing` return an error; module: `cache_window`."""

    PREVIOUS = 4096

    def __init__(self, module: Any, *failing: str, room: int = 2**20) -> None:
        self._attributes = {module.MOST_PERSISTING: room, module.LONGEST_WINDOW: 2**24}
        self._failing = failing
        self.limit, self.resets = self.PREVIOUS, 0
        self.window: tuple[Any, ...] | None = None
        self.windows: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: 700 if name in self._failing else getattr(self, f"on_{name}")(*arguments) or 0

    def on_cuCtxGetDevice(self, device: Any) -> None:
        device._obj.value = 0

    def on_cuDeviceGetAttribute(self, value: Any, number: Any, device: Any) -> None:
        value._obj.value = self._attributes[number]

    def on_cuCtxGetLimit(self, value: Any, limit: Any) -> None:
        value._obj.value = self.limit

    def on_cuCtxSetLimit(self, limit: Any, value: Any) -> None:
        self.limit = value.value

    def on_cuStreamSetAttribute(self, stream: Any, attribute: Any, value: Any) -> None:
        window = value._obj.accessPolicyWindow
        self.window = window.base_ptr, window.num_bytes, window.hitRatio, window.hitProp, window.missProp
        self.windows.append((stream.value, *self.window))

    def on_cuCtxResetPersistingL2Cache(self) -> None:
        self.resets += 1
