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
    """A queue that numbers the batches put into it and never makes `put` wait.

    If the queue is full, the oldest batch is dropped and its number is not used again: subscribers see a gap.
    After `close`, and in a forked child, where no thread sends, every new batch is dropped.

    Args:
        limit: Most batches that may wait; 0 for no limit.

    Attributes:
        num_put: Batches that were put in, which is also the next number.
        num_dropped: Batches among them that were not sent and will not be.
        num_overflown: Batches among these that were dropped because the queue was full.
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
        """Queue a batch, from any thread. O(1)."""
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
        """Wait for the oldest batch; return it with its number, or None if the outbox is closed and empty.

        Raises:
            Empty: There was no batch for `timeout` seconds.
        """
        return self._waiting.get(timeout=timeout)

    def close(self) -> None:
        """Accept no more batches; those that wait can still be taken. O(1)."""
        self._is_forked()
        with self._lock:
            if not self._closed:
                self._closed = True
                self._waiting.put(None)

    def count_dropped(self, batches: int = 1) -> None:
        """Count batches that were taken but not sent."""
        with self._lock:
            self.num_dropped += batches

    def abandon(self) -> int:
        """Close the outbox and drop all batches that wait, since no thread will take them; return how many. O(n)."""
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
        except Empty:  # another thread has just taken it
            return
        self.num_dropped += 1
        self.num_overflown += 1

    def _is_forked(self) -> bool:
        """Return whether this is the first call in a forked child.

        If so, forget the batches, which the parent will send, and the lock, which a thread of the parent may have held.
        """
        if os.getpid() == self._pid:
            return False
        self._lock = Lock()
        self._waiting = SimpleQueue()
        self._closed = True
        self._pid = os.getpid()
        return True
