"""`Verdict`: the result of one self-test."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from kvgpu.doctor.installation import one_line

PASSED, FAILED, UNUSABLE = "passed", "failed", "not usable"

Usable = tuple[bool, str]
"""Whether something can be used here, and a remark that says how or why not."""


@dataclass(frozen=True)
class Verdict:
    """The result for one backend or hash function. ms: None if nothing was tested."""

    name: str
    state: str
    ms: float | None
    remark: str

    @property
    def words(self) -> str:
        """The verdict as a line of text."""
        time = "" if self.ms is None else f"{self.ms:,.0f} ms"
        state = self.state.upper() if self.state == FAILED else self.state
        return f"{state:<10} {time:>10}  {self.remark}".rstrip()


def judged(name: str, usable: Callable[[], Usable], test: Callable[[], None]) -> Verdict:
    """Run a self-test if it can be run.

    Any exception of `usable` or `test` makes the verdict a failure, with the message as its remark.

    Args:
        name: Name of what is tested.
        usable: Says whether the self-test can be run; called first.
        test: The self-test.
    """
    start = None
    try:
        can, remark = usable()
        if not can:
            return Verdict(name, UNUSABLE, None, remark)
        start = perf_counter()
        test()
        state = PASSED
    except Exception as error:
        state, remark = FAILED, one_line(error)
    ms = None if start is None else round(1e3 * (perf_counter() - start), 1)
    return Verdict(name, state, ms, remark)
