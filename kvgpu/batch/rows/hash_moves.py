"""Compiled access to the hashes of rows: counted, read, appended and moved as key words in the arena.

`requests` are the records of `RequestRows`, `limits` and `arena` those of `RowHashes`.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.compiled.jit import jit
from kvgpu.hashing.hash_arena import hashes_at


@jit
def count_hashes(requests: Any) -> int:
    """Count the hashes of all rows."""
    count = 0
    for row in range(len(requests)):
        count += requests[row].end - requests[row].begin
    return count


@jit
def last_words(requests: Any, rows: Any, arena: Any) -> Any:
    """Return the last hash of each row, int64 [n, KEY_WORDS], and whether it has one, bool [n]."""
    words = np.zeros((len(rows), arena.shape[1]), np.int64)
    has = np.zeros(len(rows), np.bool_)
    for i in range(len(rows)):
        record = requests[rows[i]]
        has[i] = record.end > record.begin
        if has[i]:
            keys = hashes_at(arena, record.borrowed, record.begin, record.end)
            for word in range(arena.shape[1]):
                words[i, word] = keys[len(keys) - 1, word]
    return words, has


@jit
def without_room(requests: Any, limits: Any, rows: Any, counts: Any) -> npt.NDArray[np.int64]:
    """Return the places of rows whose pieces have no room for `counts` more hashes."""
    places = np.empty(len(rows), np.int64)
    found = 0
    for i in range(len(rows)):
        if requests[rows[i]].end + counts[i] > limits[rows[i]]:
            places[found] = i
            found += 1
    return places[:found]


@jit
def write_hashes(requests: Any, rows: Any, counts: Any, words: Any, arena: Any, ahead: bool) -> npt.NDArray[np.int64]:
    """Append words int64 [sum(counts), KEY_WORDS] to the hashes of rows; `ahead` if the request objects lack them.

    Returns begins and ends of what was written, int64 [2, n].
    """
    written = np.empty((2, len(rows)), np.int64)
    done = 0
    for i in range(len(rows)):
        record = requests[rows[i]]
        begin = record.end
        record.end = begin + counts[i]
        for place in range(counts[i]):
            for word in range(words.shape[1]):
                arena[begin + place, word] = words[done + place, word]
        done += counts[i]
        record.num_ahead += counts[i] if ahead else 0
        written[0, i], written[1, i] = begin, record.end
    return written


@jit
def move_hashes(requests: Any, limits: Any, rows: Any, pieces: Any, arena: Any) -> npt.NDArray[np.int64]:
    """Copy the hashes of rows to pieces (begin, limit) int64 [n, 2], which become theirs.

    Returns begins and ends of what was written, int64 [2, n].
    """
    written = np.empty((2, len(rows)), np.int64)
    for i in range(len(rows)):
        record = requests[rows[i]]
        to = pieces[i, 0]
        keys = hashes_at(arena, record.borrowed, record.begin, record.end)
        for place in range(len(keys)):
            for word in range(arena.shape[1]):
                arena[to + place, word] = keys[place, word]
        record.borrowed = 0
        record.begin, record.end, limits[rows[i]] = to, to + len(keys), pieces[i, 1]
        written[0, i], written[1, i] = to, record.end
    return written
