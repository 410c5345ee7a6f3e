"""Batches on their way from the engine to the thread that sends them."""

import logging
import os
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any

logger = logging.getLogger(__name__)

Numbered = tuple[int, Any]


class Outbox:
    """A queue that numbers what comes in and never makes anybody wait to put something into it.

    When it is full the oldest batch makes room, and its number is used up: subscribers see a gap.
    Once closed, or in a forked child, where nobody sends, whatever comes in is dropped.

    Args:
        limit: Batches that may wait; 0 for any number.

    Attributes:
        num_put: Batches that came in, which is also the next number.
        num_dropped: Batches among them that were or will not be sent.
        num_overflown: Batches among these that had to make room.
    """

    def __init__(self, limit: int) -> None:
        self.num_put = 0
        self.num_dropped = 0
        self.num_overflown = 0
        self._limit = limit
        self._closed = False
        self._waiting: SimpleQueue[Numbered | None] = SimpleQueue()
        self._lock = Lock()
        self._pid = os.getpid()

    def put(self, batch: Any) -> None:
        """Take a batch, from any thread. O(1)."""
        if self._is_forked():
            logger.warning("KV events of a forked process are dropped: make a publisher in it")
        with self._lock:
            number = self.num_put
            self.num_put += 1
            if self._closed:
                self.num_dropped += 1
                return
            if self._limit and self._waiting.qsize() >= self._limit:
                self._make_room()
            self._waiting.put((number, batch))

    def get(self, timeout: float | None) -> Numbered | None:
        """Wait for the oldest batch, with its number. None: it was closed, and no more will come.

        Raises:
            Empty: There was none for `timeout` seconds.
        """
        return self._waiting.get(timeout=timeout)

    def close(self) -> None:
        """Take nothing more; what waits can still be had. O(1)."""
        self._is_forked()
        with self._lock:
            if not self._closed:
                self._closed = True
                self._waiting.put(None)

    def count_dropped(self, batches: int = 1) -> None:
        """Count batches that were had and not sent."""
        with self._lock:
            self.num_dropped += batches

    def abandon(self) -> int:
        """Close, and drop what waits: nobody will ask for it. Returns how much that was. O(n)."""
        self.close()
        rest = sum(item is not None for item in self._rest())
        self.count_dropped(rest)
        return rest

    def _rest(self) -> Iterator[Numbered | None]:
        while True:
            try:
                yield self._waiting.get_nowait()
            except Empty:
                return

    def _make_room(self) -> None:
        try:
            self._waiting.get_nowait()
        except Empty:  # it was taken just now
            return
        self.num_dropped += 1
        self.num_overflown += 1

    def _is_forked(self) -> bool:
        """Whether this is the first call in a forked child.

        It forgets what the parent will send, and a lock that one of its threads may have held.
        """
        if os.getpid() == self._pid:
            return False
        self._lock = Lock()
        self._waiting = SimpleQueue()
        self._closed = True
        self._pid = os.getpid()
        return True
