"""Exceptions from outside at a chosen step of kvgpu's code, as an interrupt or the end of memory raises them."""

import sys
from pathlib import Path
from zlib import crc32

import kvgpu

PACKAGE = str(Path(kvgpu.__file__).parent)
GUARD = str(Path(PACKAGE, "exclusive.py"))


class Interrupt(BaseException):
    """What a signal handler may raise."""


class AtLine:
    """Raises an exception before the n-th line that code of kvgpu is about to run.

    The lines of the guard are left out: the interpreter looks for signals after calls and at jumps, and between the
    calls of the guard there are none.

    Args:
        line: n, from 0.
        error: What is raised, once.

    Attributes:
        reached: Whether it was raised.
    """

    def __init__(self, line, error=Interrupt):
        self.left, self.error, self.reached = line, error, False

    def __enter__(self):
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_):
        sys.settrace(None)

    def _trace(self, frame, event, _):
        name = frame.f_code.co_filename
        if event == "call":
            return self._trace if name.startswith(PACKAGE) and name != GUARD else None
        if event == "line" and not self.reached:
            self.left -= 1
            if self.left < 0:
                self.reached = True
                sys.settrace(None)
                raise self.error
        return self._trace


def every_line(make, call, step=1):
    """Subjects from `make`, of each of which `call` was interrupted one line later than of the one before.

    Begins somewhere in the first `step` lines, and ends with the first that is not reached by an interrupt.
    """
    line = crc32(repr(call.__code__.co_code).encode()) % step
    call(make())  # what is compiled at the first call is kept in files, whose lines are not meant
    while True:
        subject = make()
        at = AtLine(line)
        with at:
            try:
                call(subject)
            except Interrupt:
                assert at.reached
        if not at.reached:
            return
        yield line, subject
        line += step
