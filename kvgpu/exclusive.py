"""One thread at a time: a second one gets an error, not a race."""

from collections.abc import Callable
from functools import wraps
from threading import RLock
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from kvgpu.errors import ConcurrentUseError

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="Exclusive")


class Exclusive:
    """Something whose methods must not run beside each other.

    Attributes:
        busy: Held by the thread that is inside; shared by all faces of the same state.
    """

    def __init__(self, busy: Any = None) -> None:
        self.busy = RLock() if busy is None else busy


def exclusive(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Let the method run for one thread at a time; it may call others of the same object.

    Raises:
        ConcurrentUseError: Another thread is inside. Nothing is changed.
    """

    @wraps(method)
    def guarded(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        if not self.busy.acquire(blocking=False):
            raise ConcurrentUseError(
                f"{method.__name__}() was called while another thread is inside the manager: "
                "give each thread a manager of its own, or let one thread at a time call"
            )
        try:
            return method(self, *args, **kwargs)
        finally:
            self.busy.release()

    return cast(Callable[Concatenate[S, P], R], guarded)
