"""The file that every row goes to at once: a line of JSON each, on the disk before the next is measured."""

import datetime
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = "gpu.jsonl"

Record = dict[str, Any]


def plain(value: Any) -> Any:
    """What JSON can hold: numpy's scalars become Python's, what is no number becomes None."""
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


class RowsFile:
    """Appends records to a file; several processes may, each record stays whole.

    Args:
        folder: Made if it is not there.
        common: What every record has in front: the run, the machine, versions.

    Raises:
        OSError: Nothing can be written there.
    """

    def __init__(self, folder: Path, common: Record) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE
        self.common = common
        os.close(self._open())

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def append(self, record: Record) -> None:
        """Write one record, and wait until the disk has it; one that cannot be written is printed."""
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        whole = {name: plain(value) for name, value in (self.common | record).items()}
        whole["time"] = time
        line = json.dumps(whole, default=str) + "\n"
        try:
            file = self._open()
            try:
                os.write(file, line.encode())
                os.fsync(file)
            finally:
                os.close(file)
        except OSError as error:
            print(f"not written to {self.path} ({error}): {line}", file=sys.stderr, flush=True)


def records(path: Path, run: str | None = None) -> Iterator[Record]:
    """Records of a file, those of one run; a line that a crash cut off is left out."""
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if run is None or record.get("run") == run:
            yield record
