"""Files of another user, for tests that run as root and for tests that do not."""

import os

STRANGER = 12345
"""A user id that is neither root's nor that of the tests."""


class OtherOwner:
    """Gives files away: really where the tests run as root, else only as `os` tells it."""

    def __init__(self, monkeypatch):
        self._given = set()
        for name in ("lstat", "fstat"):
            monkeypatch.setattr(os, name, self._told(getattr(os, name)))

    def take(self, path):
        """From now on the file or folder belongs to `STRANGER`."""
        if os.geteuid() == 0:
            os.chown(path, STRANGER, -1)
        else:
            status = os.stat(path)
            self._given.add((status.st_dev, status.st_ino))

    def _told(self, ask):
        def answer(*arguments, **options):
            status = ask(*arguments, **options)
            if (status.st_dev, status.st_ino) not in self._given:
                return status
            return os.stat_result([*status[:4], STRANGER, *status[5:]])

        return answer
