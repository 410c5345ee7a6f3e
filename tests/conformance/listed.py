"""`Listed`: the cases of vLLM's suites that kvgpu does not model, each with its feature; what a run makes of them."""

import re
import textwrap
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from in_vllm.suites.cases import Case

FILE = Path(__file__).resolve().parent / "not_modelled.toml"
WIDTH = 120


@dataclass(frozen=True)
class Entry:
    """Some cases that fail for one reason.

    Attributes:
        feature: What kvgpu lacks.
        test: Name of a test, for all of its cases; or with parameters in brackets, of which `*` stands for any.
        count: Cases.
    """

    feature: str
    test: str
    count: int

    @property
    def function(self) -> str:
        """The test without parameters."""
        return self.test.partition("[")[0]

    def names(self, case: str) -> bool:
        """Whether a case, without its file, is one of these."""
        test = self.test if "[" in self.test else f"{self.test}[*]"
        pattern = ".*".join(map(re.escape, test.split("*")))
        return case == self.test or re.fullmatch(pattern, case) is not None


def read(file: Path = FILE) -> dict[str, Any]:
    """Return what is in the list: `apart`, and suite -> feature -> test -> cases."""
    return tomllib.loads(file.read_text(encoding="utf-8"))


def listed(suite: str, file: Path = FILE) -> list[Entry]:
    """Return the entries for a file of tests, by its name without `.py`; none if it has no section.

    Raises:
        ValueError: A test is there twice, or a count is no positive number.
    """
    of_suite = read(file).get(suite, {})
    entries = [Entry(feature, test, count) for feature, tests in of_suite.items() for test, count in tests.items()]
    twice = [test for test, times in Counter(entry.test for entry in entries).items() if times > 1]
    wrong = [entry.test for entry in entries if type(entry.count) is not int or entry.count < 1]
    if twice or wrong:
        raise ValueError(f"{file}: listed twice: {twice}; without a count: {wrong}")
    return entries


def name_of(case: Case) -> str:
    """The case without its file."""
    return case.name.rpartition("::")[2] if "[" not in case.name else case.name.partition("::")[2]


class Verdict:
    """What a run says beside a list.

    Args:
        cases: All cases that ran.
        entries: Of the list.
        left_out: Tests of which some cases were not to run: nothing is said of their entries.

    Attributes:
        passed: Cases that ran kvgpu's code.
        empty: Cases that passed without running any of it.
        skipped: Cases that were skipped.
        not_modelled: Feature -> failed cases.
        failed: Failed cases that are not listed.
        wrong: What the list says, and the run does not, in words.
    """

    def __init__(self, cases: list[Case], entries: list[Entry], left_out: set[str]) -> None:
        self.passed = [case for case in cases if case.outcome == "passed" and case.kvgpu]
        self.empty = [case for case in cases if case.outcome == "passed" and not case.kvgpu]
        self.skipped = [case for case in cases if case.outcome == "skipped"]
        self.not_modelled: dict[str, list[Case]] = {entry.feature: [] for entry in entries}
        self.failed: list[Case] = []
        self.wrong: list[str] = []
        found: Counter[str] = Counter()
        for case in cases:
            matching = [entry for entry in entries if entry.names(name_of(case))]
            if len(matching) > 1:
                self.wrong.append(f"listed twice: {case.name}")
            if case.outcome == "failed" and matching:
                found[matching[0].test] += 1
                self.not_modelled[matching[0].feature].append(case)
            elif case.outcome == "failed":
                self.failed.append(case)
            elif matching:
                self.wrong.append(f"listed as {matching[0].feature}, and {case.outcome}: {case.name}")
        for entry in entries:
            if entry.function not in left_out and found[entry.test] != entry.count:
                self.wrong.append(f"listed with {entry.count} cases, and {found[entry.test]} failed: {entry.test}")

    @property
    def is_good(self) -> bool:
        """Whether something passed, and what failed is what is listed."""
        return bool(self.passed) and not self.failed and not self.wrong

    def lines(self) -> list[str]:
        """The table, and what is wrong."""
        rows = [("passed on kvgpu", len(self.passed)), ("passed, runs nothing of kvgpu", len(self.empty))]
        rows += [(f"not modelled: {feature}", len(cases)) for feature, cases in self.not_modelled.items()]
        rows += [("skipped", len(self.skipped)), ("failed", len(self.failed))]
        return [
            *(f"{count:5d}  {what}" for what, count in rows),
            *(f"failed: {case.name}: {case.reason}" for case in self.failed),
            *(f"the list is wrong: {what}" for what in self.wrong),
        ]


def _bullet(feature: str, tests: dict[str, int]) -> str:
    names = ", ".join(f"`{test}`" + (f" {count}" if count > 1 else "") for test, count in tests.items())
    text = f"- {feature} ({sum(tests.values())}): {names}."
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)


def document(file: Path = FILE) -> str:
    """Return the list in Markdown: of each suite what is not modelled, and apart what runs none of kvgpu's classes."""
    suites = read(file)
    apart = set(suites.pop("apart"))
    parts = []
    for suite, features in suites.items():
        own = [_bullet(name, tests) for name, tests in features.items() if f"{suite}: {name}" not in apart]
        others = [_bullet(name, tests) for name, tests in features.items() if f"{suite}: {name}" in apart]
        parts += [f"`{suite}.py`:", "\n".join(own)]
        parts += ["Cases that run none of kvgpu's classes:", "\n".join(others)] if others else []
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(document(), end="")
