"""`Tally`: a plug-in of pytest that notes what became of each case, and whether it ran kvgpu's code."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from in_vllm.suites.cases import Case
from in_vllm.suites.recorder import Recorder
from listed import Entry, Verdict

import kvgpu


class Tally:
    """Prints a table of the run beside a list of what is not modelled.

    Args:
        entries: Of the list.
    """

    def __init__(self, entries: list[Entry]) -> None:
        ours = Path(kvgpu.__file__).parent
        self._recorder = Recorder(ours, ours.parent / "no vLLM")
        self._entries = entries
        self._left_out: set[str] = set()
        self._not_collected: list[str] = []
        self.cases: dict[str, Case] = {}

    def verdict(self) -> Verdict:
        """What is to be said of the run."""
        return Verdict(list(self.cases.values()), self._entries, self._left_out)

    def pytest_deselected(self, items: list[Any]) -> None:
        self._left_out |= {item.originalname for item in items}

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self._not_collected.append(str(report.longrepr))

    def pytest_runtest_logstart(self, nodeid: str, location: Any) -> None:
        self.cases[nodeid] = Case(nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: Any) -> Generator[None, Any, Any]:
        try:
            with self._recorder:
                return (yield)
        finally:
            self.cases[item.nodeid].kvgpu = self._recorder.kvgpu

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.cases[report.nodeid].report(report)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for line in [*self._not_collected, *self.verdict().lines()]:
            terminalreporter.write_line(line)
