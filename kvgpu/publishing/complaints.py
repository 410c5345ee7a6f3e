"""Warnings that a fault which comes again and again does not flood a log with."""

import logging
from contextlib import suppress
from math import inf
from time import monotonic

INTERVAL_S = 60.0
"""Between two warnings of one kind, in seconds."""


class Complaints:
    """Logs the first warning of each kind at once, then one of a kind per `INTERVAL_S` at most.

    For one thread. Never raises, whatever a handler of the log does.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._said: dict[str, tuple[float, int]] = {}
        """Of a kind: when it was said, and how many were not said since."""

    def warn(self, kind: str, message: str, *args: object) -> None:
        """Log, or count that it was not. O(1)."""
        now = monotonic()
        said, unsaid = self._said.get(kind, (-inf, 0))
        if now - said < INTERVAL_S:
            self._said[kind] = said, unsaid + 1
            return
        self._said[kind] = now, 0
        if unsaid:
            message, args = message + " (%d more since the last warning)", (*args, unsaid)
        with suppress(Exception):
            self._logger.warning(message, *args)
