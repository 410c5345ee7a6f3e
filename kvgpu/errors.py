"""The errors of kvgpu: one hierarchy, every class also a built-in error.

Code written for vLLM catches the built-in (``ValueError``, ``RuntimeError``,
``AssertionError``); code written for kvgpu may catch `KVGPUError`.
"""


class KVGPUError(Exception):
    """Base class of every error that kvgpu raises on purpose."""


class ConfigError(KVGPUError, ValueError):
    """A configuration that cannot work: sizes, names or options. Raised before any state exists."""


class UnknownNameError(ConfigError):
    """A backend, hash function, group type or trace format that does not exist."""

    def __init__(self, what: str, name: object, known: list[str]) -> None:
        super().__init__(f"unknown {what} {name!r}; known: {', '.join(sorted(known))}")


class ArgumentError(KVGPUError, ValueError):
    """An argument of a call that cannot be served. The state is as before the call."""


class NotEnoughBlocksError(KVGPUError, ValueError):
    """More blocks were asked of the pool than are free. The state is as before the call."""


class BlockIdError(KVGPUError, AssertionError, IndexError):
    """A block id outside the pool. The state is as before the call."""


class BlockStateError(KVGPUError, AssertionError):
    """A block is not in the state that the operation needs (for example it already has a hash)."""


class FreeQueueError(KVGPUError, RuntimeError):
    """A block was taken out of the free queue in which it is not."""


class InvariantError(KVGPUError, AssertionError):
    """`check()` found the state broken. The message lists every violation found."""


class NoneHashError(KVGPUError, AttributeError):
    """Something was hashed before `init_none_hash` was called."""

    def __init__(self) -> None:
        super().__init__("there is no NONE_HASH yet: call init_none_hash(hash_fn) once at the start")


class TraceError(KVGPUError, ValueError):
    """A line of a trace that cannot be read; the message names file, line and field."""


class SampleRateError(ConfigError, AssertionError):
    """A sampling rate outside (0, 1]."""


class RunningRequestError(ArgumentError, AssertionError):
    """Computed blocks were given for a request that holds blocks already."""


class ArgumentTypeError(ArgumentError, TypeError):
    """An array of the wrong dtype, or an argument of the wrong type. The state is as before."""


class GroupCountError(ArgumentError, AssertionError):
    """Something was given, or asked, for another number of cache groups than there are."""


class ConcurrentUseError(KVGPUError, RuntimeError):
    """A second thread called a manager while a first one was inside. Nothing was changed."""


class DeviceError(KVGPUError, RuntimeError):
    """A device that is asked for cannot be used: it is missing, or it failed.

    After a failure of the device nothing is lost: the control plane holds all state.
    """


class PublisherShutDownError(KVGPUError, ValueError):
    """Something was published with an event publisher that was shut down."""


class MissingPackageError(KVGPUError, ImportError):
    """An optional package is needed; the message names it and the extra that brings it."""
