"""What changed in an index since the last flush, for a copy of it that answers elsewhere."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kvgpu._jit import inline
from kvgpu.kernels.layout import KEY_WORDS

LOG_WORDS = KEY_WORDS + 3
NO_LOG: npt.NDArray[np.int64] = np.zeros((0, LOG_WORDS), np.int64)
"""Given to compiled code when nothing is to be noted."""


@inline
def note(log: Any, k0: int, k1: int, k2: int, k3: int, group: int, old: int, new: int) -> None:
    """Note that the first block of a key changed; -1 stands for none.

    Row 0 of the log holds the number of notes; the caller has made room.
    """
    if len(log) == 0:
        return
    row = log[0, 0] + 1
    log[0, 0] = row
    log[row, 0] = k0
    log[row, 1] = k1
    log[row, 2] = k2
    log[row, 3] = k3
    log[row, 4] = group
    log[row, 5] = old
    log[row, 6] = new


class Flush(NamedTuple):
    """Net changes, one row per key, in the order of the first change.

    keys int64 [n, KEY_WORDS]; group, old, new int32 [n]: the block that was first under the key at
    the last flush and the one that is now; -1 for none.
    """

    keys: npt.NDArray[np.int64]
    group: npt.NDArray[np.int32]
    old: npt.NDArray[np.int32]
    new: npt.NDArray[np.int32]


class Journal:
    """A growing list of notes. `take` folds them into one change per key."""

    def __init__(self) -> None:
        self._log = np.zeros((64, LOG_WORDS), np.int64)

    def __len__(self) -> int:
        return int(self._log[0, 0])

    def room_for(self, changes: int) -> npt.NDArray[np.int64]:
        """The log with space for so many more notes. Amortised O(changes)."""
        needed = len(self) + changes + 1
        if needed > len(self._log):
            grown = np.zeros((2 * needed, LOG_WORDS), np.int64)
            grown[: len(self) + 1] = self._log[: len(self) + 1]
            self._log = grown
        return self._log

    def discard(self) -> None:
        """Forget all notes: whoever follows must copy the whole index."""
        self._log[0, 0] = 0

    def take(self) -> Flush:
        """Net changes since the last call. O(notes)."""
        notes = self._log[1 : len(self) + 1].copy()
        self.discard()
        where: dict[bytes, list[int]] = {}
        for row, key in enumerate(notes[:, : KEY_WORDS + 1]):
            where.setdefault(key.tobytes(), []).append(row)
        first = np.array([rows[0] for rows in where.values()], np.int64)
        last = np.array([rows[-1] for rows in where.values()], np.int64)
        old, new = notes[first, 5].astype(np.int32), notes[last, 6].astype(np.int32)
        changed = old != new
        # A block that left and came back under the same key has changed nothing.
        return Flush(
            notes[first[changed], :KEY_WORDS],
            notes[first[changed], 4].astype(np.int32),
            old[changed],
            new[changed],
        )
