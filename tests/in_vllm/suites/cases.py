"""`Case`: what became of one of vLLM's tests, and on whose code it ran; in files of JSON between processes."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Case:
    """A test.

    Attributes:
        name: Its id in pytest.
        outcome: `passed`, `failed` or `skipped`; a failure before or after the test itself is one, too.
        reason: The last line of the error.
        kvgpu, vllm: Classes and functions that ran, of kvgpu and of vLLM's manager; empty where nobody looked.
        managers: Managers that the plug-in made, by who serves, with their number.
    """

    name: str
    outcome: str = "passed"
    reason: str = ""
    kvgpu: list[str] = field(default_factory=list)
    vllm: list[str] = field(default_factory=list)
    managers: dict[str, int] = field(default_factory=dict)

    def report(self, report: Any) -> None:
        """Take in what pytest says of one of the three phases of a test."""
        if report.outcome != "passed" and self.outcome != "failed":
            self.outcome = report.outcome
            crash = getattr(report.longrepr, "reprcrash", None)
            self.reason = (str(crash.message) if crash else str(report.longrepr)).split("\n")[0][:300]

    @property
    def ran_on_kvgpu(self) -> bool:
        """Whether the test ran kvgpu's code and no class of vLLM's manager."""
        return bool(self.kvgpu) and not self.vllm


def write_cases(path: Path, cases: Iterable[Case]) -> None:
    """Write cases to a file."""
    path.write_text(json.dumps([asdict(case) for case in cases], indent=1) + "\n", encoding="utf-8")


def read_cases(path: Path) -> list[Case]:
    """Return the cases of a file; none if it is missing, since pytest did not come so far."""
    if not path.exists():
        return []
    return [Case(**case) for case in json.loads(path.read_text(encoding="utf-8"))]
