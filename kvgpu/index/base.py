"""The index: which block was cached first under a key, and which other blocks have the same key.

A key is a block hash and a cache group. Entries are blocks of one `BlockState`: the records hold
their keys, an entry is a block id, and a block is entered at most once.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from kvgpu.blocks.record import ENTERED, FIRST, HAS_HASH, IN_TABLE, LED, ODD, SHARED, Ids
from kvgpu.blocks.state import BlockState
from kvgpu.errors import InvariantError
from kvgpu.hashing.block_hashes import keys_if_of_width
from kvgpu.hashing.functions import BlockHash
from kvgpu.hashing.hash_arena import HashArena
from kvgpu.index.journal import Journal
from kvgpu.index.request_spans import RequestSpans
from kvgpu.rules.hits import decide
from kvgpu.rules.plan import PrefixPlan

Keys = npt.NDArray[np.int64]
"""Block hashes as key words: int64 [n, KEY_WORDS]."""


PrefixHits = tuple[int, list[Ids], int]
"""A cached prefix: its length in tokens, int32 ids for each line of the plan, and the longest length in tokens that is
cached in some groups.

The null block stands for blocks that are not needed; lines may be longer than the prefix. This is a plain tuple,
because a named one takes 0.3 us to make, and a lookup that finds nothing takes only 4 us.
"""


Memo = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""What lookups have learnt about requests (see `kvgpu.index.host.prefix_match`); zeros mean that nothing is known.

Words, int64 [any, MEMO_WORDS], and places, int64 [requests], the row of each request in them.
"""


class BatchHits(NamedTuple):
    """Cached prefixes of many requests.

    num_tokens int64 [requests]; lengths int32 [requests, queries], in blocks of each query's groups; furthest int64
    [requests], the longest length in tokens that is cached in some groups.
    """

    num_tokens: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int32]
    furthest: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, requests: int, queries: int) -> "BatchHits":
        """Make uninitialised results."""
        return cls(np.empty(requests, np.int64), np.empty((requests, queries), np.int32), np.empty(requests, np.int64))


def decided(
    plan: PrefixPlan,
    hit: Callable[[int, int, int], bool],
    ids: npt.NDArray[np.int32],
    num_hashes: int,
    max_length: int,
    null_id: int,
) -> PrefixHits:
    """Return what `decide` finds, with the ids that `hit` has written into `ids`, int32 [lines, num_hashes]."""
    num_tokens, firsts, lengths, furthest = decide(plan, hit, num_hashes, max_length)
    result: list[Ids] = []
    for lines, first, length in zip(plan.lines, firsts, lengths, strict=True):
        ids[lines, :first] = null_id
        result += list(ids[lines, :length])
    return num_tokens, result, furthest


class BlockIndex(ABC):
    """Hash-to-block table over the records of one pool.

    Args:
        state: The records that hold the keys.
        journal: Records changes of first blocks, for a copy elsewhere; None to record none.
    """

    name: ClassVar[str]

    def __init__(self, state: BlockState, journal: Journal | None = None) -> None:
        self.state = state
        self.journal = journal
        state.take_out = self._take_out

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of different keys. O(1)."""

    @property
    def reads_in_place(self) -> bool:
        """Whether `match_batch` reads hashes that are borrowed, now and from now on."""
        return False

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of the table itself."""

    @abstractmethod
    def insert(self, ids: Ids, keys: Keys, stride: int, group: int, flags: int) -> None:
        """Enter block ``ids[i]`` under the hash ``keys[(i + 1) * stride - 1]``; -1 skips an entry.

        Writes key, group and flags (`HAS_HASH | flags`) of the records. A block whose key is already in
        the index is chained after the others. No block may have a hash. Expected O(len(ids)).
        """

    @abstractmethod
    def enter(self, block_id: int) -> None:
        """Enter one block under the key that its record already holds."""

    @abstractmethod
    def erase(self, ids: Ids, forget: bool = True) -> None:
        """Take blocks out; blocks that are not in the index are skipped. Expected O(len(ids)).

        With `forget` their hashes are cleared too. The next block with the same key, in the order
        of insertion, becomes the first.
        """

    @abstractmethod
    def first(self, words: Keys, group: int) -> int:
        """Return the id of the first block under the key words, int64 [KEY_WORDS], in `group`, or -1."""

    @abstractmethod
    def match(self, plan: PrefixPlan, keys: Keys, max_length: int) -> PrefixHits:
        """Find the longest prefix of one request that is cached in all groups of the plan.

        Args:
            plan: Rules and groups.
            keys: Hashes of the request.
            max_length: Longest hit allowed, in tokens.
        """

    def match_list(
        self, plan: PrefixPlan, hashes: list[BlockHash], count: int, width: int, max_length: int
    ) -> PrefixHits | None:
        """Do what `match` does with the first `count` hashes of a list; not all of them need be read.

        Returns:
            None if a hash that is read is not `width` bytes.
        """
        keys = keys_if_of_width(hashes[:count], width)
        return None if keys is None else self.match(plan, keys, max_length)

    def spans_for(self, count: int) -> RequestSpans:
        """Return spans to fill for the next `match_batch`, where this index reads them fastest; valid until then."""
        return RequestSpans(count)

    def match_batch(
        self, plan: PrefixPlan, arena: HashArena, spans: RequestSpans, memo: Memo | None = None
    ) -> BatchHits:
        """Do what `match` does, for many requests in one call.

        Args:
            plan: Rules and groups.
            arena: Hashes of all requests.
            spans: Where they lie, and how long each hit may be.
            memo: What is known from earlier calls; indexes that answer on the CPU use it and bring it up to date.

        Expected O(blocks hit) for full attention. Waits for the device if there is one.
        """
        hits = BatchHits.empty(spans.count, len(plan.queries))
        for r, (begin, end, longest) in enumerate(zip(spans.begins, spans.ends, spans.max_lengths, strict=True)):
            hits.num_tokens[r], lines, hits.furthest[r] = self.match(plan, arena.words[begin:end], int(longest))
            hits.lengths[r] = [len(lines[part.start]) for part in plan.lines]
        return hits

    def _as_found(self, words: Keys, group: int) -> int:
        """Do what `first` does, without changing anything."""
        return self.first(words, group)

    def settle_for_good(self) -> None:  # noqa: B027 - most indexes find every key alone
        """Prepare, until `clear`, for hashes that may not depend on all blocks before them. O(1) if already prepared.

        Without this, `match` finds only prefixes that a manager has cached from their first block on.
        """

    def _take_out(self, block_id: int) -> None:
        self.erase(np.array([block_id], np.int32), forget=False)

    @abstractmethod
    def restore(self) -> None:
        """Make counts and records agree with the table again, after a call that was interrupted. O(n).

        Raises:
            InvariantError: The records of the blocks contradict each other: only `clear` helps.
        """

    @abstractmethod
    def clear(self) -> None:
        """Empty the table; the caller must clear the records."""

    @abstractmethod
    def _table_violations(self) -> list[str]:
        """Describe what is wrong with the table, beyond what the records show."""

    def chain(self, first: int) -> list[int]:
        """Return the ids under one key in the order of insertion. O(length).

        Raises:
            InvariantError: The ring of blocks with this key is broken.
        """
        chain = [first]
        records, num_rows = self.state.records, self.state.num_rows
        while (after := int(records[chain[-1]]["same_next"])) != first:
            # A ring whose links agree in both directions returns to its beginning.
            if not 0 <= after < num_rows or records[after]["same_prev"] != chain[-1]:
                raise InvariantError(
                    f"the ring of blocks with the key of block {first} is broken: block {after} does "
                    f"not lead back to block {chain[-1]}"
                )
            chain.append(after)
        return chain

    def rebuild(self) -> None:
        """Enter again every block that is in the index according to its record; duplicates keep their order. O(n).

        Raises:
            InvariantError: The ring of blocks with a key is broken. Nothing is changed.
        """
        records = self.state.records[:-1]
        chains = [self.chain(int(block_id)) for block_id in np.flatnonzero(records["flags"] & FIRST)]
        self.clear()
        records["flags"] &= ~np.int32(ENTERED & ~SHARED)
        for chain in chains:
            for block_id in chain:
                self.enter(block_id)

    def check(self) -> None:
        """Compare the whole table with the records. O(n).

        Raises:
            InvariantError: An invariant is violated; the message lists all violations.
        """
        found = self.violations()
        if found:
            raise InvariantError("; ".join(found))

    def violations(self) -> list[str]:
        """Compare the whole table with the records; describe what does not agree. O(n)."""
        records = self.state.records[:-1]
        flags = records["flags"]
        found = []
        heads = np.flatnonzero(flags & FIRST)
        if len(heads) != len(self):
            found.append(f"{len(heads)} first blocks, but {len(self)} keys are counted")
        unfit = (flags & IN_TABLE != 0) & (flags & (HAS_HASH | ODD) != HAS_HASH)
        found += [f"block {bad} is in the table without a suitable hash" for bad in np.flatnonzero(unfit)]
        reached = 0
        for head in heads.tolist():
            words, group = self._key_words(head)
            if not flags[head] & LED and (got := self._as_found(words, group)) != head:
                found.append(f"the key of block {head} leads to {got}")
            try:
                chain = self.chain(head)
            except InvariantError as error:
                found.append(str(error))
                continue
            reached += len(chain)
            for before, block_id in zip([chain[-1], *chain], chain, strict=False):
                other, other_group = self._key_words(block_id)
                if other.tobytes() != words.tobytes() or other_group != group:
                    found.append(f"block {block_id} is chained under the key of block {head}")
                if not flags[block_id] & LED and records["same_prev"][block_id] != before:
                    found.append(f"block {block_id} does not lead back to block {before}")
                if len(chain) > 1 and not flags[block_id] & SHARED:
                    found.append(f"block {block_id} shares its key, but is not flagged SHARED")
        entered = int(np.count_nonzero(flags & IN_TABLE))
        if reached != entered:
            found.append(f"{entered} blocks are in the table, {reached} are reached")
        return found + self._table_violations()

    def _key_words(self, block_id: int) -> tuple[Any, int]:
        record = self.state.records[block_id]
        return np.frombuffer(record.tobytes()[:32], "<i8"), int(record["group"])
