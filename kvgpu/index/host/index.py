"""The index as an open-addressing table in CPU memory, compiled with Numba.

The control plane's own table: authoritative for which block is first under a key, and the copy
that a GPU table is fed from.
"""

import secrets
from typing import Any

import numpy as np

from kvgpu.blocks.index_meta import BROKEN, CELLS, DEPARTURES, EAGER, FOR_GOOD, NUM_LED, REGIONS, forget_keys
from kvgpu.blocks.invariants import led_violations
from kvgpu.blocks.record import FIRST, LED, Ids
from kvgpu.blocks.state import BlockState
from kvgpu.compiled.cache_lines import make_lines
from kvgpu.compiled.handle import WORDS, Handle
from kvgpu.compiled.list_items import KNOWN_LAYOUT
from kvgpu.hashing.functions import BlockHash
from kvgpu.hashing.hash_arena import HashArena
from kvgpu.index.base import BatchHits, BlockIndex, Keys, Memo, PrefixHits
from kvgpu.index.host.batch_match import match_many
from kvgpu.index.host.insert_erase import enter_one, erase_blocks, insert_blocks
from kvgpu.index.host.insert_runs import settle
from kvgpu.index.host.list_match import FOUND, PLAN, QUESTION_WORDS, match_list
from kvgpu.index.host.memo import MEMO_WORDS
from kvgpu.index.host.pool_arrays import LOG, NULL_ID, SEED
from kvgpu.index.host.prefix_match import match_one
from kvgpu.index.host.table import counter_of, counters, first_of, hash_of
from kvgpu.index.journal import NO_LOG, Journal
from kvgpu.index.request_spans import RequestSpans
from kvgpu.layout import EMPTY_WORD, LOW_32, OVERFLOW_FULL, OVERFLOW_WORD, SLOTS_PER_BUCKET, TAG_SHIFT, num_buckets_for
from kvgpu.rules.plan import PrefixPlan

PoolTuple = tuple[Any, Any, Any, Any, Any, int, Any, int, Any]


class HostIndex(BlockIndex):
    """Open addressing, seven slots and eight overflow counters per 64-byte bucket, no tombstones.

    About 19 bytes per block at the default load factor of 0.5. A lookup that hits reads two cache
    lines; one that follows a successor hint, one. Most blocks of a request are led to by the one before them and
    have no word in the table (see `kvgpu.index.host.insert_runs`).
    """

    name = "host"

    def __init__(self, state: BlockState, journal: Journal | None = None) -> None:
        super().__init__(state, journal)
        self.table = make_lines(num_buckets_for(state.num_rows), EMPTY_WORD)
        self._log = NO_LOG
        self._handle = Handle((state.records, *state.free, self.table, self._log, state.meta), more=2)
        self.seed = secrets.randbits(63)
        self._num_keys = 0
        # Of lookups of lists.
        self._asked, self._found = np.zeros(QUESTION_WORDS, np.int64), np.zeros(64, np.int32)
        self._plan_words = WORDS
        self._question = Handle((self._handle.words, WORDS, self._asked, self._found))

    def __len__(self) -> int:
        return self._num_keys

    @property
    def reads_in_place(self) -> bool:
        return True

    @property
    def nbytes(self) -> int:
        return self.table.nbytes + 8 * (len(self.state.meta) - CELLS)

    @property
    def seed(self) -> int:
        """Of the slot hash."""
        return int(self._handle.words[SEED])

    @seed.setter
    def seed(self, seed: int) -> None:
        self._handle.words[SEED] = seed

    def handle(self, changes: int = 0) -> Keys:
        """Return a handle for `pool_at`, with room in the log for `changes` notes. O(1)."""
        words = self._handle.words
        words[NULL_ID] = self.state.null_id
        log = self.log_for(changes)
        if log is not self._log:
            self._handle.point(LOG, log)
            self._log = log
        return words

    def arrays(self, changes: int = 0) -> PoolTuple:
        """Return `PoolArrays` as a plain tuple for compiled code, with room in the log for `changes` notes. O(1)."""
        state = self.state
        return state.records, *state.free, self.table, self.seed, self.log_for(changes), state.null_id, state.meta

    def insert(self, ids: Ids, keys: Keys, stride: int, group: int, flags: int) -> None:
        self.settle()
        self._num_keys += insert_blocks(self.arrays(len(ids)), ids, keys, stride, group, flags)

    def enter(self, block_id: int) -> None:
        self.settle()
        self._num_keys += enter_one(self.arrays(1), block_id)

    def erase(self, ids: Ids, forget: bool = True) -> None:
        self._num_keys -= erase_blocks(self.arrays(len(ids)), ids, forget)

    def first(self, words: Keys, group: int) -> int:
        self.settle()
        return self._as_found(words, group)

    def _as_found(self, words: Keys, group: int) -> int:
        return first_of(self.state.records, self.table, words, group, self.seed)

    def match_list(
        self, plan: PrefixPlan, hashes: list[BlockHash], count: int, width: int, max_length: int
    ) -> PrefixHits | None:
        if not KNOWN_LAYOUT:
            return super().match_list(plan, hashes, count, width, max_length)
        asked = self._asked
        asked[:] = id(hashes), count, id(bytes), width, max_length
        self.handle()
        if plan.words is not self._plan_words:
            self._plan_words = WORDS  # whenever this is interrupted
            self._question.point(PLAN, plan.words)
            self._plan_words = plan.words
        while True:
            size = match_list(self._question.address)
            if size <= len(self._found):
                break
            self._found = np.empty(2 * size, np.int32)
            self._question.point(FOUND, self._found)
        return None if size < 0 else self._hits(plan, self._found[:size].copy())

    def match(self, plan: PrefixPlan, keys: Keys, max_length: int) -> PrefixHits:
        return self._hits(plan, match_one(self.handle(), keys, plan.words, max_length))

    @staticmethod
    def _hits(plan: PrefixPlan, found: Ids) -> PrefixHits:
        """The result of `match_one` as the index returns it."""
        if len(plan.groups) == 1:
            # The common case without a loop.
            return found.item(0), [found[3:]], found.item(1)
        end = 2 + len(plan.queries)
        num_tokens, furthest, *lengths = found[:end].tolist()
        ids: list[Ids] = []
        for query, length in zip(plan.queries, lengths, strict=True):
            for _ in query.groups:
                begin, end = end, end + length
                ids.append(found[begin:end])
        return num_tokens, ids, furthest

    def match_batch(
        self, plan: PrefixPlan, arena: HashArena, spans: RequestSpans, memo: Memo | None = None
    ) -> BatchHits:
        hits = BatchHits.empty(spans.count, len(plan.queries))
        if memo is None:
            memo = np.zeros((spans.count, MEMO_WORDS), np.int64), np.arange(spans.count)
        hashes = (arena.words, spans.borrowed, spans.begins, spans.ends)
        match_many(self.arrays(), hashes, plan.words, spans.max_lengths, *memo, tuple(hits))
        return hits

    def clear(self) -> None:
        self.table[:] = EMPTY_WORD
        self.state.meta[DEPARTURES : DEPARTURES + REGIONS] += 1
        forget_keys(self.state.meta)
        self._num_keys = 0
        if self.journal is not None:
            self.journal.discard()

    def restore(self) -> None:
        # Compiled code changes table and records in one step; only `clear` takes several.
        self._num_keys = int(np.count_nonzero(self.state.records["flags"][:-1] & FIRST))
        words = int(np.count_nonzero(self.table[:, :SLOTS_PER_BUCKET]))
        meta = self.state.meta
        if meta[BROKEN] or words + int(meta[NUM_LED]) != self._num_keys:
            self.rebuild()

    def settle(self) -> None:
        """Give every block a word in the table. O(blocks of the pool), but each time half as often."""
        if self.state.meta[NUM_LED]:
            settle(self.arrays())

    def settle_for_good(self) -> None:
        meta = self.state.meta
        if meta.item(EAGER) < FOR_GOOD or meta.item(NUM_LED):
            self.settle()
            meta[EAGER] = 2 * FOR_GOOD

    def count_keys(self, more: int) -> None:
        """Take note of keys that compiled code added to the table (or, below 0, took out)."""
        self._num_keys += more

    def log_for(self, changes: int) -> np.ndarray:
        """Return the log, in which compiled code has room for `changes` notes."""
        return NO_LOG if self.journal is None else self.journal.room_for(changes)

    def _table_violations(self) -> list[str]:
        slots = self.table[:, :SLOTS_PER_BUCKET]
        buckets, places = np.nonzero(slots)
        num_led = int(self.state.meta[NUM_LED])
        found = led_violations(self.state)
        if len(buckets) + num_led != self._num_keys:
            found.append(
                f"{len(buckets)} words in the table and {num_led} led blocks, but {self._num_keys} keys are counted"
            )
        counted = counters(self.table[:, OVERFLOW_WORD])
        overflow = np.zeros_like(counted)
        for bucket, place in zip(buckets.tolist(), places.tolist(), strict=True):
            word = int(slots[bucket, place])
            row = (word & LOW_32) - 1
            if not 0 <= row < self.state.num_rows:
                found.append(f"a word of bucket {bucket} names block {row}, which does not exist")
                continue
            if self.state.records["flags"][row] & LED:
                found.append(f"a word of bucket {bucket} names block {row}, which is led")
            words, group = self._key_words(row)
            h = int(hash_of(words, group, self.seed))
            if (word >> TAG_SHIFT) & LOW_32 != h & LOW_32:
                found.append(f"the word of block {row} has the tag of another key")
            passed = ((h >> 32) & LOW_32) * len(self.table) >> 32
            while passed != bucket:
                overflow[passed, counter_of(h)] += 1
                passed = (passed + 1) % len(self.table)
        return found + [
            f"counter {counter} of bucket {bucket} counts {counted[bucket, counter]} overflows, "
            f"has {overflow[bucket, counter]}"
            for bucket, counter in np.argwhere((counted != overflow) & (counted != OVERFLOW_FULL)).tolist()
        ]
