"""Threads that survive every error, and end with the process."""

import atexit
import logging
import os
import threading
from collections.abc import Iterable
from math import inf
from multiprocessing.util import Finalize
from time import monotonic

from kvgpu.publishing.channel import LINGER_MS, Channel, is_fatal

logger = logging.getLogger(__name__)

SHUTDOWN_S = 5.0
"""How long a stopped worker may take to finish what it has begun, in seconds."""

_pid = 0
"""Id of the process that stops its workers when it ends."""


class Worker(threading.Thread):
    """A thread that takes turns until one of them, or a stop, says that it was the last.

    An error ends the turn but not the thread, unless the socket is lost.

    Args:
        name: Name of the thread.
        channel: Used only by this thread from now on; closed at the end.

    Attributes:
        deadline: When the worker must be done, as a time of `monotonic`; infinite until it is stopped.
    """

    def __init__(self, name: str, channel: Channel) -> None:
        super().__init__(name=name, daemon=True)
        self.deadline = inf
        self.channel = channel

    def turn(self) -> bool:
        """Do a little work; return False if there is no more to do."""
        raise NotImplementedError

    def failed(self, error: BaseException) -> None:
        """Log what a turn raised."""
        raise NotImplementedError

    def ended(self) -> None:
        """Drop all unfinished work, at the end of the thread."""

    def stop(self, seconds: float) -> None:
        """Tell the worker to finish within `seconds`. Returns at once; may be called from any thread."""
        self.deadline = min(self.deadline, monotonic() + seconds)

    def discard(self) -> None:
        """Let the worker finish by itself, or close its channel if it never ran. Returns at once."""
        if self.ident is None:
            self.channel.close(0)
        else:
            self.stop(SHUTDOWN_S)

    def start(self) -> None:
        _stop_workers_at_exit()
        super().start()

    def run(self) -> None:
        try:
            while self._goes_on():
                pass
        finally:
            self.ended()
            self.channel.close()

    def _goes_on(self) -> bool:
        try:
            return self.turn()
        # Any error: the events of later steps must go out, and no caller would see the error.
        except BaseException as error:
            if is_fatal(error):
                logger.error("%s has lost its socket and ends: %s", self.name, error)
            self.failed(error)
            return not is_fatal(error)


def stop_workers(workers: Iterable[Worker], seconds: float) -> None:
    """Stop workers and wait until all are done, for little more than `seconds` at most."""
    workers = list(workers)
    for worker in workers:
        worker.stop(seconds)
    for worker in workers:
        worker.join(max(0.0, worker.deadline - monotonic()) + 2 * LINGER_MS / 1000)


def stop_all_workers() -> None:
    """Stop all workers of this process; a forked child has none of its parent's workers."""
    running = [thread for thread in threading.enumerate() if isinstance(thread, Worker)]
    stop_workers(running, SHUTDOWN_S)


def _stop_workers_at_exit() -> None:
    global _pid
    if _pid != os.getpid():
        _pid = os.getpid()
        atexit.register(stop_all_workers)
        # Before Python 3.13, children forked by multiprocessing run no exit functions.
        Finalize(None, stop_all_workers, exitpriority=0)
