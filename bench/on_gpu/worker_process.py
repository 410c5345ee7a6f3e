"""`WorkerProcess`: the worker as its supervisor sees it, asked and answering line by line."""

import contextlib
import json
import os
import select
import signal
import subprocess
from collections.abc import Sequence
from typing import Any

from on_gpu.rows import Record


def kill(process: "subprocess.Popen[Any]") -> None:
    """End a process and all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class WorkerProcess:
    """A worker, asked line by line.

    Raises:
        RuntimeError: It ends, or does not become ready in time.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
        )
        self._unread = b""

    def close(self, seconds: float) -> None:
        """Let it end by itself for so long, then kill it and all that it started."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended, and what was not sent is lost
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        kill(self.process)

    def send(self, order: Record) -> None:
        """Ask for a block."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the answer says so
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            self.process.stdin.flush()

    def answer(self, seconds: float) -> Record | None:
        """What it says, or None if it says nothing for so long.

        Raises:
            RuntimeError: It ended; the message says how.
        """
        assert self.process.stdout is not None
        if select.select([self.process.stdout], [], [], seconds)[0]:
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            if not data:
                status = self.process.wait()
                how = f"signal {-status}" if status < 0 else f"exit status {status}"
                raise RuntimeError(f"the process ended: {how}")
            self._unread += data
        line, newline, rest = self._unread.partition(b"\n")
        if not newline:
            return None
        self._unread = rest
        answer: Record = json.loads(line)
        return answer
