"""`RequestSpans`: where the hashes of requests lie, as a batch of lookups takes it."""

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


class RequestSpans:
    """Where the hashes of requests lie, and how long their hits may be.

    Args:
        count: Requests.
        words: int64 [4 * capacity], memory for the four arrays, `capacity` apart; made for `count` requests if None.

    Attributes:
        count, words: The same.
        begins, ends: int64 [count]: request r has the hashes ``[begins[r], ends[r])``, of an arena or of its own.
        max_lengths: int64 [count], longest hit allowed, in tokens.
        borrowed: int64 [count], addresses of hashes that are not in the arena, which a `HostIndex` reads; 0 for
            requests whose hashes are in the arena.

    All of them are uninitialised, or what `words` holds.
    """

    __slots__ = ("begins", "borrowed", "count", "ends", "max_lengths", "words")

    def __init__(self, count: int, words: Numbers | None = None) -> None:
        self.count = count
        self.words: Numbers = np.empty(4 * count, np.int64) if words is None else words
        # A row is a C-contiguous array, whatever the capacity: compiled code knows one type of them.
        self.begins, self.ends, self.max_lengths, self.borrowed = self.words.reshape(4, len(self.words) // 4)[:, :count]

    @classmethod
    def in_arena(cls, begins: npt.ArrayLike, ends: npt.ArrayLike, max_lengths: npt.ArrayLike) -> "RequestSpans":
        """Make spans of an arena, from [count] integers each. O(count)."""
        ends = np.asarray(ends)
        spans = cls(len(ends))
        spans.begins[:], spans.ends[:], spans.max_lengths[:] = begins, ends, max_lengths
        spans.borrowed[:] = 0
        return spans
