"""Warnings at a limited rate, so that a recurring fault does not flood the log."""

import logging
from contextlib import suppress
from math import inf
from time import monotonic

INTERVAL_S = 60.0
"""Least time between two warnings of the same kind, in seconds."""


class Complaints:
    """Logs the first warning of each kind at once, then at most one of each kind per `INTERVAL_S`.

    For use by one thread. Never raises, whatever a log handler does.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._said: dict[str, tuple[float, int]] = {}
        """Kind -> when it was last logged, and how many warnings were suppressed since."""

    def warn(self, kind: str, message: str, *args: object) -> None:
        """Log a warning, or count it as suppressed. O(1)."""
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
