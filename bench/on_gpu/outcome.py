"""`Outcome`: how a block or a tool went."""

from dataclasses import dataclass

DONE, PASSED, LEFT_OUT, FAILED, CUT_OFF = "done", "passed", "left out", "failed", "cut off"


@dataclass
class Outcome:
    """How a block or a tool went. status: of the five above. why: of those that are not done."""

    name: str
    status: str
    seconds: float
    why: str = ""
    is_check: bool = False
    counts: bool = True
