"""The index in plain Python: slow and obviously correct, the reference for tests of the others."""

import numpy as np

from kvgpu.blocks.record import FIRST, HAS_HASH, IN_TABLE, SHARED, Ids
from kvgpu.blocks.state import BlockState
from kvgpu.errors import InvariantError
from kvgpu.index.base import BlockIndex, Keys, PrefixHits, decided
from kvgpu.index.journal import Journal
from kvgpu.rules.plan import PrefixPlan

Key = tuple[bytes, int]


class ReferenceIndex(BlockIndex):
    """A dict from keys to ids in the order of insertion."""

    name = "reference"

    def __init__(self, state: BlockState, journal: Journal | None = None) -> None:
        super().__init__(state, journal)
        self._blocks: dict[Key, list[int]] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    @property
    def nbytes(self) -> int:
        return self._blocks.__sizeof__()

    def insert(self, ids: Ids, keys: Keys, stride: int, group: int, flags: int) -> None:
        for i, block_id in enumerate(ids.tolist()):
            if block_id >= 0:
                record = self.state.records[block_id]
                words = keys[(i + 1) * stride - 1]
                for name, word in zip(("k0", "k1", "k2", "k3"), words, strict=True):
                    record[name] = word
                record["group"] = group
                record["flags"] = HAS_HASH | flags
                self.enter(block_id)

    def enter(self, block_id: int) -> None:
        key = self._key(block_id)
        chain = self._blocks.setdefault(key, [])
        if not chain:
            self._note(key, -1, block_id)
        chain.append(block_id)
        self._write(chain)

    def erase(self, ids: Ids, forget: bool = True) -> None:
        for block_id in ids.tolist():
            record = self.state.records[block_id]
            if not record["flags"] & IN_TABLE:
                continue
            key = self._key(block_id)
            chain = self._blocks.get(key, [])
            if block_id not in chain:
                raise InvariantError(f"block {block_id} is in the table under another hash than its own")
            if chain[0] == block_id:
                self._note(key, block_id, chain[1] if len(chain) > 1 else -1)
            chain.remove(block_id)
            record["flags"] &= 0 if forget else ~(IN_TABLE | FIRST | SHARED)
            if chain:
                self._write(chain)
            else:
                del self._blocks[key]

    def first(self, words: Keys, group: int) -> int:
        chain = self._blocks.get((words.tobytes(), group))
        return chain[0] if chain else -1

    def match(self, plan: PrefixPlan, keys: Keys, max_length: int) -> PrefixHits:
        ids = np.full((len(plan.groups), len(keys)), self.state.null_id, np.int32)

        def hit(query: int, block: int, place: int) -> bool:
            found = [self.first(keys[place], group) for group in plan.queries[query].groups]
            ids[plan.lines[query], block] = found
            return min(found) >= 0

        return decided(plan, hit, ids, len(keys), max_length, self.state.null_id)

    def clear(self) -> None:
        self._blocks.clear()
        if self.journal is not None:
            self.journal.discard()

    def restore(self) -> None:
        known = self._blocks
        self._blocks = {}
        self.state.records["flags"][:-1] &= ~np.int32(IN_TABLE | FIRST)
        for key, chain in known.items():
            kept = [block_id for block_id in dict.fromkeys(chain) if self._holds(block_id, key)]
            if kept:
                self._blocks[key] = kept
                self._write(kept)

    def _holds(self, block_id: int, key: Key) -> bool:
        return bool(self.state.records[block_id]["flags"] & HAS_HASH) and self._key(block_id) == key

    def _key(self, block_id: int) -> Key:
        words, group = self._key_words(block_id)
        return words.tobytes(), group

    def _write(self, chain: list[int]) -> None:
        """Write flags and rings to the records, which look the same for every index."""
        records = self.state.records
        shared = SHARED if len(chain) > 1 or records[chain[0]]["flags"] & SHARED else 0
        for place, block_id in enumerate(chain):
            record = records[block_id]
            record["flags"] &= ~FIRST
            record["flags"] |= IN_TABLE | shared | (FIRST if place == 0 else 0)
            record["same_next"] = chain[(place + 1) % len(chain)]
            record["same_prev"] = chain[place - 1]

    def _note(self, key: Key, old: int, new: int) -> None:
        if self.journal is not None:
            self.journal.add(np.frombuffer(key[0], "<i8"), key[1], old, new)

    def _table_violations(self) -> list[str]:
        records = self.state.records
        chains = self._blocks.values()
        found = [
            f"blocks {chain} are in the dict, but the ring differs" for chain in chains if chain != self.chain(chain[0])
        ]
        return found + [
            f"key of blocks {chain} has first flags {[bool(records[i]['flags'] & FIRST) for i in chain]}"
            for chain in chains
            if [bool(records[i]["flags"] & FIRST) for i in chain] != [True] + [False] * (len(chain) - 1)
        ]
