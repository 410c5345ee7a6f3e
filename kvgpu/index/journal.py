"""What changed in an index since the last flush, for a copy of it that answers elsewhere."""

import secrets
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.jit import jit, leaf
from kvgpu.index.slot_hash import slot_hash
from kvgpu.layout import KEY_WORDS, LOW_32

LOG_WORDS = KEY_WORDS + 3
NO_LOG: npt.NDArray[np.int64] = np.zeros((0, LOG_WORDS), np.int64)
"""Given to compiled code when nothing is to be noted."""


@leaf
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


@jit
def fold(log: Any, count: int, seed: int) -> Any:
    """Net changes of the first `count` notes, as the arrays of a `Flush`.

    Keys are told apart by a table of rows, open addressing with linear probing; `seed` is that of its hash.
    """
    size = 2
    while size < 2 * count:
        size *= 2
    slots = np.zeros(size, np.int64)
    first = np.empty(count, np.int64)
    last = np.empty(count, np.int64)
    place_of = np.empty(count + 1, np.int64)
    num_keys = 0
    for row in range(1, count + 1):
        note = log[row]
        h = slot_hash(note[0], note[1], note[2], note[3], note[4], seed)
        slot = ((h >> 32) & LOW_32) & (size - 1)
        while slots[slot] != 0:
            other = log[slots[slot]]
            same = True
            for word in range(KEY_WORDS + 1):
                same = same and other[word] == note[word]
            if same:
                break
            slot = (slot + 1) & (size - 1)
        if slots[slot] == 0:
            slots[slot] = row
            place_of[row] = num_keys
            first[num_keys] = row
            num_keys += 1
        last[place_of[slots[slot]]] = row
    changed = 0
    for key in range(num_keys):
        # A block that left and came back under the same key has changed nothing.
        if log[first[key], KEY_WORDS + 1] != log[last[key], KEY_WORDS + 2]:
            first[changed] = first[key]
            last[changed] = last[key]
            changed += 1
    keys = np.empty((changed, KEY_WORDS), np.int64)
    group = np.empty(changed, np.int32)
    old = np.empty(changed, np.int32)
    new = np.empty(changed, np.int32)
    for key in range(changed):
        for word in range(KEY_WORDS):
            keys[key, word] = log[first[key], word]
        group[key] = log[first[key], KEY_WORDS]
        old[key] = log[first[key], KEY_WORDS + 1]
        new[key] = log[last[key], KEY_WORDS + 2]
    return keys, group, old, new


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
        self._seed = secrets.randbits(63)

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
        keys, group, old, new = fold(self._log, len(self), self._seed)
        self.discard()
        return Flush(keys, group, old, new)
