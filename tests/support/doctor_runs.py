"""The command `kvgpu doctor`, run in this process, and what it said."""

import contextlib
import io
import json
from types import SimpleNamespace

from kvgpu.cli import main


class Run(SimpleNamespace):
    """One run of the command: status, text, and the JSON as report."""

    def verdict(self, name):
        return next(v for v in self.report["backends"] + self.report["hashes"] if v["name"] == name)

    def line(self, name):
        """What is printed beside a name."""
        lines = [line for line in self.text.splitlines() if line.startswith(f"  {name} ")]
        assert len(lines) == 1
        return lines[0][len(name) + 3 :].strip()


def doctor(*arguments):
    """Run it with these options."""
    text, report = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(text), contextlib.redirect_stdout(report):
        status = main(["doctor", "--json", "-", *arguments])
    return Run(status=status, text=text.getvalue(), report=json.loads(report.getvalue()))
