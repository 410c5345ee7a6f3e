"""Runs blocks in a worker and tools beside it; whatever one of them does, the next one runs."""

import contextlib
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic as now
from types import FrameType
from typing import IO, Any

from on_gpu.outcome import CUT_OFF, DONE, FAILED, LEFT_OUT, PASSED, Outcome
from on_gpu.rows import Record, RowsFile
from on_gpu.tools import LeftOut
from on_gpu.worker_process import WorkerProcess, kill

HERE = Path(__file__).resolve().parent
LOG = "gpu-tools.log"
LOGGED = 20_000
"""Characters of what a tool printed."""
READY_SECONDS = 90
"""For a worker to import torch and find its GPU."""
GRACE = 5
"""Seconds to finish a row in, when told to stop."""
LEAST = 2
"""Seconds left for which nothing is started any more."""
PAUSE = 0.1
STARTS = 3
"""Of workers, none of which becomes ready, after which there will be none."""
INTERPRETED = 20
"""Times as long as on a GPU may a block take in the interpreter."""


class CutOff(Exception):
    """The deadline, or a signal, came first; the message says which."""


@dataclass
class Running:
    """A tool that was started. output: a file."""

    tool: Any
    process: "subprocess.Popen[bytes]"
    output: IO[bytes]
    begin: float
    end: float


@dataclass
class Supervisor:
    """Runs steps until they are done, a deadline is reached or a signal comes.

    Args:
        file: Where rows go.
        worker: Command of a worker.
        environment: Of everything that is started.
        seconds: From now to the deadline.
        rehearse: How kernels run without a GPU, which tools are told; nothing: on one.
    """

    file: RowsFile
    worker: Sequence[str]
    environment: dict[str, str]
    seconds: float
    rehearse: str = ""
    outcomes: list[Outcome] = field(default_factory=list)
    stopped: str = ""
    """By what, or nothing."""
    _failed_starts: int = 0
    _process: WorkerProcess | None = None
    _tools: list[Running] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._begin = now()
        self._end = self._begin + self.seconds
        self._patience = INTERPRETED if self.rehearse else 1

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Handler of signals: what runs may finish its row."""
        self.stopped = self.stopped or signal.Signals(number).name
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.process.terminate()
        self._end = min(self._end, now() + GRACE)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return now() - self._begin

    @property
    def checked(self) -> list[str]:
        """Names of the checks that have passed."""
        return [outcome.name for outcome in self.outcomes if outcome.status == PASSED]

    def run(self, steps: Sequence[Any]) -> list[Outcome]:
        """All steps; returns how each block and tool went, and leaves no process behind."""
        try:
            for step in steps:
                for tool in step.tools:
                    self._start(tool)
                for block in step.blocks:
                    self._guarded(block)
                while self._tools:
                    self._look_after_tools()
                    if self._tools:
                        select.select([], [], [], PAUSE)
        finally:
            for running in self._tools:
                kill(running.process)
            if self._process is not None:
                self._process.close(GRACE)
        return self.outcomes

    def _note(self, subject: Any, status: str, begin: float, why: str = "") -> None:
        """Write how something went, and print a line."""
        seconds = now() - begin
        outcome = Outcome(subject.name, status, seconds, why, subject.is_check, getattr(subject, "counts", True))
        self.outcomes.append(outcome)
        key = {FAILED: "error", CUT_OFF: "error", LEFT_OUT: "left_out"}.get(status)
        self.file.append(
            {
                "block": subject.name,
                "status": status,
                "seconds": round(seconds, 2),
                "elapsed": round(self.elapsed, 2),
                "checked": self.checked,
            }
            | ({} if key is None else {key: why})
        )
        words = f"{self.elapsed:6.1f} s  {subject.name}: {status} in {seconds:.1f} s"
        print(f"{words}: {why.splitlines()[0][:200]}" if why else words, flush=True)

    def _why_not_now(self) -> str:
        """Why nothing is started any more, or nothing."""
        if self.stopped:
            return f"stopped by {self.stopped}"
        if now() > self._end - LEAST:
            return f"the deadline of {self.seconds:g} s was near"
        return ""

    # Blocks

    def _guarded(self, block: Any) -> None:
        begin = now()
        why = self._why_not_now()
        if why:
            self._note(block, CUT_OFF, begin, why)
            return
        try:
            self._run(block, begin)
        except Exception as error:  # of the supervisor itself: the next block runs
            traceback.print_exc()
            self._end_worker()
            self._note(block, FAILED, begin, f"{type(error).__name__}: {error}")

    def _run(self, block: Any, begin: float) -> None:
        try:
            process = self._ready()
            begin = now()
            process.send({"block": block.name, "checked": self.checked})
            outcome = self._answer(process, block.seconds * self._patience)
        except CutOff as error:
            self._end_worker()
            self._note(block, CUT_OFF, begin, str(error))
            return
        except (RuntimeError, TimeoutError) as error:
            self._end_worker()
            self._note(block, FAILED, begin, f"{type(error).__name__}: {error}")
            return
        if not outcome["alive"]:
            self._end_worker()
        if "error" in outcome:
            self._note(block, FAILED, begin, outcome["error"])
        elif "left_out" in outcome:
            self._note(block, LEFT_OUT, begin, outcome["left_out"])
        elif outcome["stopped"]:
            self._note(block, CUT_OFF, begin, self._why_not_now())
        else:
            self._note(block, PASSED if block.is_check else DONE, begin)

    def _ready(self) -> WorkerProcess:
        """The worker, a new one if there is none.

        Raises:
            RuntimeError, TimeoutError, CutOff: It does not become ready.
        """
        if self._process is None:
            if self._failed_starts == STARTS:
                self.stopped = "workers that do not start"
                raise CutOff(self._why_not_now())
            self._failed_starts += 1
            self._process = WorkerProcess(self.worker, self.environment)
            ready = self._answer(self._process, READY_SECONDS)
            self._failed_starts = 0
            self.file.common = ready["ready"]
        return self._process

    def _answer(self, process: WorkerProcess, seconds: float) -> Record:
        """What the worker says; tools are looked after meanwhile.

        Raises:
            RuntimeError: It ended.
            TimeoutError: It says nothing until then.
            CutOff: Nor until the deadline.
        """
        end = now() + seconds
        while True:
            answer = process.answer(PAUSE)
            if answer is not None:
                return answer
            self._look_after_tools()
            if now() > self._end:
                raise CutOff(self._why_not_now())
            if now() > end:
                raise TimeoutError(f"not done in {seconds:g} s")

    def _end_worker(self) -> None:
        if self._process is not None:
            kill(self._process.process)
            self._process = None

    # Tools

    def _start(self, tool: Any) -> None:
        begin = now()
        why = self._why_not_now()
        if why:
            self._note(tool, CUT_OFF, begin, why)
            return
        try:
            command = tool.command(self.rehearse)
            output = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the tool has ended
            process = subprocess.Popen(
                command,
                cwd=HERE.parents[1],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except LeftOut as error:
            self._note(tool, LEFT_OUT, begin, str(error))
        except Exception as error:
            self._note(tool, FAILED, begin, f"{type(error).__name__}: {error}")
        else:
            self._tools.append(Running(tool, process, output, begin, begin + tool.seconds * self._patience))

    def _look_after_tools(self) -> None:
        """Take in those that have ended, and end those that take too long."""
        for running in list(self._tools):
            status = running.process.poll()
            if status is None and now() < min(running.end, self._end):
                continue
            kill(running.process)
            self._tools.remove(running)
            running.output.seek(0)
            output = running.output.read().decode(errors="replace")
            running.output.close()
            self._log(running.tool.name, output)
            if status is not None:
                self._take_in(running, status, output)
            elif now() > self._end:
                self._note(running.tool, CUT_OFF, running.begin, self._why_not_now())
            else:
                late = f"TimeoutError: not done in {running.tool.seconds:g} s"
                self._note(running.tool, FAILED, running.begin, late)

    def _take_in(self, running: Running, status: int, output: str) -> None:
        tool = running.tool
        try:
            rows = tool.rows(status, output)
        except LeftOut as error:
            self._note(tool, LEFT_OUT, running.begin, str(error))
            return
        except Exception as error:
            self._note(tool, FAILED, running.begin, f"{type(error).__name__}: {error}")
            return
        for row in rows:
            self.file.append({"block": tool.name, "checked": self.checked} | row)
        self._note(tool, PASSED if tool.is_check else DONE, running.begin)

    def _log(self, name: str, output: str) -> None:
        path = self.file.path.with_name(LOG)
        try:
            with path.open("a") as file:
                file.write(f"== {name}\n{output[-LOGGED:]}\n")
        except OSError as error:
            print(f"{path}: {error}", file=sys.stderr)
