"""`Journal`: what changed in an index since the last flush, for a copy of it elsewhere."""

import secrets
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.jit import jit, leaf, python_of
from kvgpu.index.key import Key
from kvgpu.index.slot_hash import slot_hash
from kvgpu.layout import KEY_WORDS, LOW_32

OLD, NEW, LOG_WORDS = KEY_WORDS + 1, KEY_WORDS + 2, KEY_WORDS + 3
NO_LOG: npt.NDArray[np.int64] = np.zeros((0, LOG_WORDS), np.int64)
"""The log that is passed to compiled code if nothing is to be recorded."""


@leaf
def note(log: Any, key: Key, old: int, new: int) -> None:
    """Record that the first block under a key changed from `old` to `new`; -1 stands for no block.

    Line 0 of the log holds the number of notes; the caller must have made room for one more.
    """
    if len(log) == 0:
        return
    line = log[0, 0] + 1
    log[0, 0] = line
    log[line, 0] = key.k0
    log[line, 1] = key.k1
    log[line, 2] = key.k2
    log[line, 3] = key.k3
    log[line, 4] = key.group
    log[line, OLD] = old
    log[line, NEW] = new


_note = python_of(note)


@jit
def fold(log: Any, count: int, seed: int) -> Any:
    """Fold the first `count` notes into net changes, as the arrays of a `Flush`.

    A table of lines of the log, open addressing with linear probing, tells keys apart; `seed` is the seed of its hash.
    """
    size = 2
    while size < 2 * count:
        size *= 2
    slots = np.zeros(size, np.int64)
    first = np.empty(count, np.int64)
    last = np.empty(count, np.int64)
    place_of = np.empty(count + 1, np.int64)
    num_keys = 0
    for line in range(1, count + 1):
        note = log[line]
        h = slot_hash(Key(note[0], note[1], note[2], note[3], note[4]), seed)
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
            slots[slot] = line
            place_of[line] = num_keys
            first[num_keys] = line
            num_keys += 1
        last[place_of[slots[slot]]] = line
    changed = 0
    for key in range(num_keys):
        # A block that left and came back under the same key is not a change.
        if log[first[key], OLD] != log[last[key], NEW]:
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
        old[key] = log[first[key], OLD]
        new[key] = log[last[key], NEW]
    return keys, group, old, new


class Flush(NamedTuple):
    """Net changes, one per key, in the order of the first change.

    keys int64 [n, KEY_WORDS]; group, old, new int32 [n]: `old` was the first block under the key at
    the last flush, and `new` is the first block now; -1 stands for no block.
    """

    keys: npt.NDArray[np.int64]
    group: npt.NDArray[np.int32]
    old: npt.NDArray[np.int32]
    new: npt.NDArray[np.int32]


class Journal:
    """A list of notes that grows. `take` folds them into one change per key."""

    def __init__(self) -> None:
        self._log = np.zeros((64, LOG_WORDS), np.int64)
        self._seed = secrets.randbits(63)

    def __len__(self) -> int:
        return self._log.item(0)

    def room_for(self, changes: int) -> npt.NDArray[np.int64]:
        """Return the log, with room for `changes` more notes. Amortised O(changes)."""
        needed = len(self) + changes + 1
        if needed > len(self._log):
            grown = np.zeros((2 * needed, LOG_WORDS), np.int64)
            grown[: len(self) + 1] = self._log[: len(self) + 1]
            self._log = grown
        return self._log

    def add(self, words: npt.NDArray[np.int64], group: int, old: int, new: int) -> None:
        """`note` for Python: `words` int64 [KEY_WORDS] of the hash. Amortised O(1)."""
        k0, k1, k2, k3 = words.tolist()
        _note(self.room_for(1), Key(k0, k1, k2, k3, group), old, new)

    def discard(self) -> None:
        """Forget all notes: the copy must then be made again from the whole index."""
        self._log[0, 0] = 0

    def take(self) -> Flush:
        """Return the net changes since the last call. O(notes)."""
        keys, group, old, new = fold(self._log, len(self), self._seed)
        self.discard()
        return Flush(keys, group, old, new)
