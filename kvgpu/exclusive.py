"""Objects that one thread uses at a time, and that recover after an exception has interrupted a call."""

from collections.abc import Callable
from functools import wraps
from threading import get_ident
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from kvgpu.errors import ArgumentTypeError, ConcurrentUseError, InvariantError, KVGPUError

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="Exclusive")


def _nothing_to_restore() -> None:
    """Do nothing: the default for state that no exception can leave half changed."""


class Turn:
    """Which thread may use one state; shared by all objects that use it.

    Attributes:
        holders: Threads that are inside; only the first of them is there rightfully. A dict holds them in order, and
            adds and removes one in a single step of the interpreter, so that no signal falls in between.
        number: Number of the current or the last call.
        torn: Whether an exception from outside (an interrupt, no memory) interrupted a call, which may have made
            half of a change; the next call restores the state first.
        restore: Restores the state.
        complaints: What callbacks raised in this call: it goes on, and raises the first of them when it is complete.
    """

    __slots__ = ("complaints", "holders", "number", "restore", "torn")

    def __init__(self) -> None:
        self.holders: dict[int, None] = {}
        self.number = 0
        self.torn = False
        self.restore: Callable[[], None] = _nothing_to_restore
        self.complaints: list[BaseException] = []

    def tell(self, callback: Callable[..., Any], *about: Any) -> Any:
        """Call foreign code in the middle of a change; what it raises is raised after the change is complete.

        Returns:
            What the callback returns, or None if it raised.
        """
        try:
            return callback(*about)
        except BaseException as error:
            self.complaints.append(error)
            return None

    def raise_complaint(self) -> None:
        """Raise what callbacks raised, if anything.

        Raises:
            BaseException: The first exception of a callback; the others are dropped.
        """
        if self.complaints:
            first, self.complaints = self.complaints[0], []
            raise first


class Exclusive:
    """Base of classes whose methods must not run at the same time.

    Attributes:
        turn: See `Turn`.
    """

    def __init__(self, turn: Turn | None = None) -> None:
        self.turn = Turn() if turn is None else turn

    def __copy__(self) -> "Exclusive":
        """Refuse to make a copy.

        Raises:
            ArgumentTypeError: Always: a copy would share the state, and both objects would change it.
        """
        raise ArgumentTypeError(
            f"a {type(self).__name__} cannot be copied: both would change the same state; make another"
        )


def _pending(error: BaseException) -> BaseException:
    """Return the exception that was pending when compiled code returned: each caller wraps it in a SystemError."""
    while isinstance(error, SystemError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def exclusive(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Let the method run in one thread at a time; it may call other methods of the same object.

    An exception that is not one of kvgpu's may occur at any point: the state is restored before the next call.

    Raises:
        ConcurrentUseError: Another thread is inside. Nothing is changed.
        Exception: A callback raised it; the call is complete nevertheless.
    """

    @wraps(method)
    def guarded(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        turn, me = self.turn, get_ident()
        holders = turn.holders
        if me in holders:
            return method(self, *args, **kwargs)
        try:
            holders[me] = None
            if len(holders) != 1 and (*holders,)[0] != me:
                raise ConcurrentUseError(
                    f"{method.__name__}() was called while another thread is inside the manager: "
                    "give each thread its own manager, or let only one thread at a time call"
                )
            if turn.torn:
                turn.complaints.clear()
                turn.restore()
            turn.number += 1
            turn.torn = True
            try:
                result = method(self, *args, **kwargs)
            except KVGPUError as error:
                # All other errors of kvgpu are raised before anything is changed.
                turn.torn = isinstance(error, InvariantError)
                turn.complaints.clear()
                raise
            except SystemError as error:
                raise _pending(error) from None
            turn.torn = False
            if turn.complaints:
                turn.raise_complaint()
            return result
        finally:
            holders.pop(me, None)

    return cast(Callable[Concatenate[S, P], R], guarded)


def exclusive_part(name: str) -> Callable[[Callable[Concatenate[S, P], R]], Callable[Concatenate[S, P], R]]:
    """Do what `exclusive` does for the part of the method `name` that others must not run beside; errors name that."""

    def decorate(part: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
        part.__name__ = name
        return exclusive(part)

    return decorate
