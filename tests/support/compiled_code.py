"""A compiled function, a start that compiles or loads it, and its files on disk."""

import logging


def add(a, b):
    """What each start compiles or loads."""
    return a + b


class Start:
    """A first call of `add` in a process.

    hits: how many signatures were not compiled. folder: where code is kept, or None. warnings: what was said.
    """

    def __init__(self, folder, compiled, records):
        self.folder = folder
        self.hits = sum(compiled.stats.cache_hits.values())
        self.warnings = [r.getMessage() for r in records if r.levelno >= logging.WARNING]


def files_below(folder):
    """Paths of all files in a folder and in those below it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def index_of(folder):
    """The file that lists the signatures of `add`."""
    return next(folder.glob("*.add-*.nbi"))


def code_of(folder):
    """The file with the first signature of `add`."""
    return next(folder.glob("*.add-*.1.nbc"))


FILES = {"index": index_of, "code": code_of}
