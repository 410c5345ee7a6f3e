"""The errors of kvgpu: one hierarchy, in which every class is also a built-in error.

Code written for vLLM catches the built-in (``ValueError``, ``RuntimeError``,
``AssertionError``); code written for kvgpu may catch `KVGPUError`.
"""


class KVGPUError(Exception):
    """Base class of every error that kvgpu raises on purpose."""


class ConfigError(KVGPUError, ValueError):
    """A configuration (sizes, names or options) cannot work. Raised before any state exists."""


class UnknownNameError(ConfigError):
    """A backend, hash function, group type, trace format or the like does not exist."""

    def __init__(self, what: str, name: object, known: list[str]) -> None:
        super().__init__(f"unknown {what} {name!r}; known: {', '.join(sorted(known))}")
        self._about = (what, name, known)

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        """Return what makes the error again in another process. O(1)."""
        return type(self), self._about


class ArgumentError(KVGPUError, ValueError):
    """A call cannot be served with this argument. The state is as before the call."""


class NotEnoughBlocksError(KVGPUError, ValueError):
    """More blocks were requested than the pool has free. The state is as before the call."""


class PinLimitError(NotEnoughBlocksError):
    """Too much of the pool would be pinned. The state is as before the call."""


class BlockIdError(KVGPUError, AssertionError, IndexError):
    """A block id is outside the pool. The state is as before the call."""


class BlockStateError(KVGPUError, AssertionError):
    """A block is not in the state that the operation needs (for example, it already has a hash)."""


class FreeQueueError(KVGPUError, RuntimeError):
    """A block that is not in the free queue was removed from it."""


class InvariantError(KVGPUError, AssertionError):
    """`check()` found the state broken. The message lists every violation found."""


class NoneHashError(KVGPUError, AttributeError):
    """Something was hashed before `init_none_hash` was called."""

    def __init__(self) -> None:
        super().__init__("there is no NONE_HASH yet: call init_none_hash(hash_fn) once at the start")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        """Return what makes the error again in another process. O(1)."""
        return type(self), ()


class TraceError(KVGPUError, ValueError):
    """A line of a trace cannot be read; the message names file, line and field."""


class SampleRateError(ConfigError, AssertionError):
    """A sampling rate is outside (0, 1]."""


class RunningRequestError(ArgumentError, AssertionError):
    """Computed blocks were given for a request that already holds blocks."""


class ArgumentTypeError(ArgumentError, TypeError):
    """An array has the wrong dtype, or an argument the wrong type. The state is as before the call."""


class GroupCountError(ArgumentError, AssertionError):
    """An argument or a request is for a different number of cache groups than there are."""


class ConcurrentUseError(KVGPUError, RuntimeError):
    """A thread called a manager while another thread was inside. Nothing was changed."""


class DeviceError(KVGPUError, RuntimeError):
    """The requested device cannot be used: it is missing, or it failed.

    A failure of the device loses nothing: the control plane holds all state.
    """


class PublisherShutDownError(KVGPUError, ValueError):
    """Something was published with an event publisher after its shutdown."""


class MissingPackageError(KVGPUError, ImportError):
    """An optional package is missing; the message names it and the extra that installs it."""


class WarmupError(KVGPUError, RuntimeError):
    """A process that should have compiled something failed; the message has its last words."""


class SnapshotError(KVGPUError, ValueError):
    """A file is no snapshot, is damaged, or is of another configuration or hash function. Nothing was changed."""
