"""One thread at a time; and what a call leaves behind that an exception has cut short."""

from collections.abc import Callable
from functools import wraps
from threading import get_ident
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from kvgpu.errors import ArgumentTypeError, ConcurrentUseError, InvariantError, KVGPUError

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="Exclusive")


def _nothing_to_restore() -> None:
    """What is called for state that no exception can tear."""


class Turn:
    """Whose turn it is with one state; shared by all faces of it.

    Attributes:
        holders: Threads that are inside, the first of them by right. A dict keeps them in order, and enters and
            forgets one in a single step of the interpreter, so that no signal falls in between.
        number: Of the call that is inside, or was the last.
        torn: A call was cut short by an exception from outside (an interrupt, no memory left), and may have
            left half of a change; the next call restores the state first.
        restore: Does that.
        complaints: What callbacks raised in this call: it goes on, and raises the first of them when all is done.
    """

    __slots__ = ("complaints", "holders", "number", "restore", "torn")

    def __init__(self) -> None:
        self.holders: dict[int, None] = {}
        self.number = 0
        self.torn = False
        self.restore: Callable[[], None] = _nothing_to_restore
        self.complaints: list[BaseException] = []

    def tell(self, callback: Callable[..., Any], *about: Any) -> Any:
        """Call code of others in the middle of a change; what it raises is raised when the change is complete.

        Returns:
            What the callback returns, or None if it raised.
        """
        try:
            return callback(*about)
        except BaseException as error:
            self.complaints.append(error)
            return None

    def raise_complaint(self) -> None:
        """
        Raises:
            BaseException: The first that a callback raised; the others are forgotten.
        """
        if self.complaints:
            first, self.complaints = self.complaints[0], []
            raise first


class Exclusive:
    """Something whose methods must not run beside each other.

    Attributes:
        turn: See `Turn`.
    """

    def __init__(self, turn: Turn | None = None) -> None:
        self.turn = Turn() if turn is None else turn

    def __copy__(self) -> "Exclusive":
        """
        Raises:
            ArgumentTypeError: Always: a copy would share the state, and both would change it.
        """
        raise ArgumentTypeError(
            f"a {type(self).__name__} cannot be copied: both would change the same state; make another"
        )


def exclusive(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Let the method run for one thread at a time; it may call others of the same object.

    An exception that is not of kvgpu may come at any point: what it leaves is restored before the next call.

    Raises:
        ConcurrentUseError: Another thread is inside. Nothing is changed.
        Exception: What a callback raised; the call is complete all the same.
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
                    "give each thread a manager of its own, or let one thread at a time call"
                )
            if turn.torn:
                turn.complaints.clear()
                turn.restore()
            turn.number += 1
            turn.torn = True
            try:
                result = method(self, *args, **kwargs)
            except KVGPUError as error:
                # Others refuse before anything is changed.
                turn.torn = isinstance(error, InvariantError)
                turn.complaints.clear()
                raise
            except SystemError as error:
                # Compiled code returned while an exception was pending.
                raise error.__cause__ or error from None
            turn.torn = False
            if turn.complaints:
                turn.raise_complaint()
            return result
        finally:
            holders.pop(me, None)

    return cast(Callable[Concatenate[S, P], R], guarded)
