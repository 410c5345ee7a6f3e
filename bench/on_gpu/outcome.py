"""`Outcome`: how a block or a tool went, and many of them in a few lines."""

from collections.abc import Sequence
from dataclasses import dataclass

DONE, PASSED, LEFT_OUT, FAILED, CUT_OFF = "done", "passed", "left out", "failed", "cut off"
LONGEST_REASON = 200


@dataclass
class Outcome:
    """How a block or a tool went. status: of the five above. why: of those that are not done."""

    name: str
    status: str
    seconds: float
    why: str = ""
    is_check: bool = False
    counts: bool = True

    @property
    def reason(self) -> str:
        """The first line of `why`, as much of it as a line of a summary holds."""
        return (self.why.splitlines() or [""])[0][:LONGEST_REASON]


def described(outcomes: Sequence[Outcome]) -> list[str]:
    """Lines: how many went well; the names of what did not run, by the reason; each that failed."""
    well = [f"{status}: {sum(o.status == status for o in outcomes)}" for status in (DONE, PASSED)]
    reasons: dict[tuple[str, str], list[str]] = {}
    for status in (LEFT_OUT, CUT_OFF):
        for outcome in outcomes:
            if outcome.status == status:
                reasons.setdefault((status, outcome.reason), []).append(outcome.name)
    return [
        ", ".join(well),
        *(f"{status}, {reason}: {'; '.join(names)}" for (status, reason), names in reasons.items()),
        *(f"{FAILED}, {outcome.name}: {outcome.reason}" for outcome in outcomes if outcome.status == FAILED),
    ]
