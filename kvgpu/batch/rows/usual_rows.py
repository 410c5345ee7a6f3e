"""`UsualRows`: a token for each of many rows in one compiled pass, and slots for rows that stay inside their blocks.

It serves what is usual and else changes nothing: other code then serves the call, and says what is wrong with it.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.arguments import is_plain
from kvgpu.batch.rows.hash_moves import count_hashes
from kvgpu.batch.rows.pending_tokens import PendingTokens
from kvgpu.batch.rows.record import FROM_ROW, REQUEST_RECORD, RowIds, check_row, stays_inside
from kvgpu.batch.rows.requests import RequestRows
from kvgpu.compiled.addresses import address_of_code
from kvgpu.compiled.handle import IDS, WORDS, Handle, array_at, handle_at, lines_at
from kvgpu.compiled.jit import carray, inline, jit, leaf, pointer
from kvgpu.exclusive import Turn
from kvgpu.hashing.hash_arena import hashes_at
from kvgpu.hashing.serialised.libcrypto import CONTEXT_WORDS, DIGEST_BYTES, available, digest, padded
from kvgpu.hashing.serialised.messages import NO_EXTRA, Message, Span, longest_message, put_message, readable
from kvgpu.integers import MOST_TOKENS
from kvgpu.layout import KEY_WORDS
from kvgpu.native import append_tokens

REQUESTS, BUFFER, LIMITS, KINDS, ARENA, CONTEXT, DATA, ENDINGS, NUM_ARRAYS = range(9)
"""Arrays of the handle, in order.

REQUESTS, LIMITS, ARENA: of `RequestRows` and its hashes. BUFFER, KINDS: of `PendingTokens`. CONTEXT, DATA: scratch
memory of `digest`. ENDINGS: uint8 [kinds * ENDING_BYTES], the end of a message without extra keys, by kind.
"""
BLOCK_SIZE, ROOM, MAX_MODEL_LEN, STAMP, READY, NUM_WORDS = range(2 * NUM_ARRAYS, 2 * NUM_ARRAYS + 6)
"""Its numbers, and its length. ROOM: tokens that a row keeps. STAMP: of the last call, see `check_row`; below 0, where
those of other calls are above. READY: whether the addresses of arrays are right."""

ENDING_BYTES = 24
_ENDING_LENGTHS = (len(NO_EXTRA[0]), len(NO_EXTRA[1]))

_REQUEST, _KIND = np.empty(0, REQUEST_RECORD), np.empty(0, np.int8)
_BYTES, _CONTEXT = np.empty(0, np.uint8), np.empty(0, np.uint32)


@leaf
def fills(record: Any, block_size: int) -> bool:
    """Return whether one more token fills a block of a row."""
    return bool((record.num_tokens + 1) % block_size == 0)


@leaf
def is_usual(requests: Any, row: int, stamp: int, token: int, room: int) -> bool:
    """Return whether a row is tracked, comes for the first time, and keeps a token that all hash functions take."""
    if check_row(requests, row, stamp) != 0 or token != np.int32(token):
        return False
    record = requests[row]
    return bool(record.mode == FROM_ROW and record.num_kept + record.num_pending < room)


@leaf
def can_hash(record: Any, kind: int, limit: int, block_size: int) -> bool:
    """Return whether the block that a row fills can be hashed at once, and its hash has a place."""
    num_hashes = record.end - record.begin
    follows = num_hashes > 0 and (record.num_tokens + 1) // block_size == num_hashes + 1
    return bool(follows and kind > 0 and record.end < limit)


@inline
def hash_block(handle: Any, line: Any, record: Any, arena: Any, kind: int) -> None:
    """Hash the block that a row has filled, and append the hash."""
    size = handle[BLOCK_SIZE]
    hashes = hashes_at(arena, record.borrowed, record.begin, record.end + 1)
    last = hashes.ctypes.data + 8 * KEY_WORDS * (len(hashes) - 2)
    parent = carray(pointer(last, _BYTES), (np.int64(DIGEST_BYTES),))
    out = carray(pointer(last + 8 * KEY_WORDS, _BYTES), (np.int64(DIGEST_BYTES),))
    start = record.num_ahead * size
    ending, length = ENDING_BYTES * (kind - 1), _ENDING_LENGTHS[kind - 1]
    message = Message(
        Span(parent, 0, DIGEST_BYTES),
        Span(line, start, start + size),
        Span(array_at(handle, 2 * ENDINGS, _BYTES), ending, ending + length),
        0,
    )
    data = array_at(handle, 2 * DATA, _BYTES)
    digest(array_at(handle, 2 * CONTEXT, _CONTEXT), data, put_message(kind - 1, data, message), out)
    record.end += 1
    record.num_ahead += 1


@inline
def append_each(handle: Any, rows: Any, tokens: Any) -> bool:
    """Append tokens[i] to rows[i], or to none; returns whether it did. Needs no memory."""
    requests, kinds = array_at(handle, 2 * REQUESTS, _REQUEST), array_at(handle, 2 * KINDS, _KIND)
    limits, size = array_at(handle, 2 * LIMITS, IDS), handle[BLOCK_SIZE]
    buffer = lines_at(handle, 2 * BUFFER, WORDS, handle[ROOM])
    arena = lines_at(handle, 2 * ARENA, WORDS, KEY_WORDS)
    handle[STAMP] -= 1
    num_full = 0
    for i in range(len(rows)):
        row = rows[i]
        if not is_usual(requests, row, handle[STAMP], tokens[i], handle[ROOM]):
            return False
        if fills(requests[row], size):
            if not can_hash(requests[row], kinds[row], limits[row], size):
                return False
            num_full += 1
    if num_full > 0 and count_hashes(requests) + num_full > len(arena):
        return False
    for i in range(len(rows)):
        row = rows[i]
        record, line = requests[row], buffer[row]
        full = fills(record, size)
        line[record.num_kept + record.num_pending] = tokens[i]
        record.num_pending += 1
        record.num_tokens += 1
        if full:
            hash_block(handle, line, record, arena, kinds[row])
    return True


@jit
def append_at(address: int, rows_at: int, tokens_at: int, count: int) -> int:
    """Do what `append_each` does, for Python and C.

    Args:
        address: Of the words of the handle.
        rows_at, tokens_at: Where the arguments are, int64 [count].
        count: Number of rows.

    Returns:
        1, or 0 if nothing was changed.
    """
    handle = handle_at(address, NUM_WORDS)
    if handle[READY] == 0:
        return 0
    rows, tokens = carray(pointer(rows_at, WORDS), (count,)), carray(pointer(tokens_at, WORDS), (count,))
    return int(append_each(handle, rows, tokens))


@jit
def cover_at(address: int, rows_at: int, count: int, new: int, num_lookahead: int, gives: int) -> int:
    """Give each row slots for `new` tokens inside its blocks, or none; for C.

    Args:
        address, rows_at, count: As in `append_at`.
        new: Tokens of each row.
        num_lookahead: Draft tokens of each row.
        gives: 0 to ask only whether all rows would get theirs.

    Returns:
        1 if all rows get their slots, else 0.
    """
    handle = handle_at(address, NUM_WORDS)
    if handle[READY] == 0 or new <= 0 or new > MOST_TOKENS or num_lookahead < 0 or num_lookahead > MOST_TOKENS:
        return 0
    requests, rows = array_at(handle, 2 * REQUESTS, _REQUEST), carray(pointer(rows_at, WORDS), (count,))
    handle[STAMP] -= 1
    for i in range(count):
        if check_row(requests, rows[i], handle[STAMP]) != 0:
            return 0
        record = requests[rows[i]]
        num_main = record.num_computed + new
        inside = record.serial != 0 and num_main <= handle[MAX_MODEL_LEN]
        if not (inside and stays_inside(record, num_main, num_lookahead)):
            return 0
    for i in range(count):
        requests[rows[i]].num_computed += new if gives else 0
    return 1


class UsualRows:
    """Serves usual calls of a `BatchManager`.

    Args:
        rows: The rows.
        pending: Tokens are appended to these.
        max_model_len: Most tokens of a request.

    Attributes:
        prepared: What the extension in C takes, see `kvgpu/native/rows.c`; None until it can be called, and without it.
    """

    def __init__(self, rows: RequestRows, pending: PendingTokens, max_model_len: int) -> None:
        self._rows, self._pending = rows, pending
        size = pending.block_size
        data = np.zeros(padded(longest_message(DIGEST_BYTES, size, ENDING_BYTES)), np.uint8)
        endings = b"".join(readable(ending).tobytes().ljust(ENDING_BYTES, b"\0") for ending in NO_EXTRA)
        scratch = np.zeros(CONTEXT_WORDS, np.uint32), data, np.frombuffer(bytearray(endings), np.uint8)
        self._handle = Handle((*self._now(), *scratch), more=NUM_WORDS - 2 * NUM_ARRAYS)
        self._handle.words[BLOCK_SIZE], self._handle.words[MAX_MODEL_LEN] = size, max_model_len
        self.prepared: tuple[Any, ...] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy takes over: all but addresses in the memory of this object."""
        return {**self.__dict__, "prepared": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.forget()

    def _now(self) -> tuple[npt.NDArray[Any], ...]:
        """The first arrays of the handle, which grow."""
        rows, pending = self._rows, self._pending
        return rows.records, pending.tokens, rows.hashes.limits, pending.kinds, rows.hashes.arena.words

    def forget(self) -> None:
        """Serve nothing until `prepare` is called: arrays are about to be replaced. O(1)."""
        self._handle.words[READY] = 0

    def prepare(self, turn: Turn, blocks: object, store: object, steps: object) -> None:
        """Serve calls from now on, after compiling what serves them. O(1) afterwards.

        Args:
            turn: Of the manager.
            blocks: Has `num_changes`.
            store, steps: Have `num_closed`; while the two differ, rows may have lost their blocks.
        """
        if self._handle.words[READY] or not available():
            return
        for place, array in enumerate(self._now()):
            self._handle.point(place, array)
        self._handle.words[ROOM] = self._pending.tokens.shape[1]
        if append_tokens is not None:
            codes = address_of_code(append_at, 4), address_of_code(cover_at, 6)
            self.prepared = (turn, self._rows.hashes.arena, blocks, store, steps, self._handle.address, *codes)
        self._handle.words[READY] = 1

    def append(self, rows: RowIds, tokens: npt.ArrayLike) -> bool:
        """Append tokens[i] to rows[i], or change nothing; returns whether it did.

        Args:
            rows: As the caller has given them, and not checked.
            tokens: The same.

        O(rows), and O(block) for those that fill a block. If one does: O(capacity).
        """
        is_ready = self._handle.words[READY] and self._rows.hashes.arena.copy is None
        if not (is_ready and is_plain(rows) and is_plain(tokens) and len(rows) == len(tokens)):
            return False
        return bool(append_at(self._handle.address, rows.ctypes.data, tokens.ctypes.data, len(rows)))
