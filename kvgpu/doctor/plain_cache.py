"""`PlainCache`: prefix caching with full attention, using only lists and dicts of tokens."""

from collections.abc import Sequence
from typing import Any, NamedTuple

Ids = list[int]
Prefix = tuple[int, ...]


class Admission(NamedTuple):
    """What a new request got.

    hit_tokens: length of its cached prefix. hits, new: block ids per group; new is None if the request did not fit.
    """

    hit_tokens: int
    hits: tuple[Ids, ...]
    new: tuple[Ids, ...] | None


class PlainCache:
    """Does what a manager must do, without hashes, tables or records. Every call is O(blocks * tokens).

    Args:
        num_blocks: Blocks of the pool; block 0 is the null block.
        size: Tokens of a block.
    """

    def __init__(self, num_blocks: int, size: int) -> None:
        self.size = size
        self.num_evictions = 0
        self._free = list(range(1, num_blocks))
        self._users = [0] * num_blocks
        self._blocks_of: dict[Prefix, Ids] = {}
        self._prefix_of: dict[int, Prefix] = {}
        self._tables: dict[str, Ids] = {}

    def admit(self, request: Any) -> Admission:
        """Allocate slots for all tokens of a new request."""
        tokens = request.all_token_ids
        hits = self._hits(tokens)
        missing = -(-len(tokens) // self.size) - len(hits)
        idle = [block for block in hits if not self._users[block]]
        found = len(hits) * self.size, (hits,)
        if missing + len(idle) > len(self._free):
            return Admission(*found, None)
        self._free = [block for block in self._free if block not in idle]
        new, self._free = self._free[:missing], self._free[missing:]
        for block in new:
            self._evict(block)
        table = self._tables[request.request_id] = hits + new
        for block in table:
            self._users[block] += 1
        for place in range(len(hits), len(tokens) // self.size):
            prefix = tuple(tokens[: (place + 1) * self.size])
            self._prefix_of[table[place]] = prefix
            self._blocks_of.setdefault(prefix, []).append(table[place])
        return Admission(*found, (new,))

    def free(self, request: Any) -> None:
        """Free the blocks of a request; the last one is the first to be allocated again."""
        for block in reversed(self._tables.pop(request.request_id)):
            self._users[block] -= 1
            if not self._users[block]:
                self._free.append(block)

    def hit_tokens(self, requests: Sequence[Any]) -> list[int]:
        """Return the length of the cached prefix of each request."""
        return [len(self._hits(request.all_token_ids)) * self.size for request in requests]

    def _hits(self, tokens: list[int]) -> Ids:
        """Return the cached blocks of a prompt; at least one token remains to be computed."""
        found: Ids = []
        for end in range(self.size, len(tokens), self.size):
            blocks = self._blocks_of.get(tuple(tokens[:end]))
            if not blocks:
                break
            found.append(blocks[0])
        return found

    def _evict(self, block: int) -> None:
        prefix = self._prefix_of.pop(block, None)
        if prefix is not None:
            self.num_evictions += 1
            self._blocks_of[prefix].remove(block)
