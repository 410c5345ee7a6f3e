"""A life of a manager: random calls that depend on nothing but a seed, so that two managers can live the same one."""

import random
from types import SimpleNamespace
from typing import Any

from support.managers import make_request, snapshot

from kvgpu.config.cache_hints import CacheHints
from kvgpu.eviction.state.arrays import DEADLINES

DOCUMENTS = [[d] * 9 + list(range(d, d + 90)) for d in (0, 100, 200)]


class Life:
    """Requests that a manager serves.

    Args:
        manager: The manager.
        seed: Decides everything.
        name: Requests of two lives of one manager have different names.
    """

    def __init__(self, manager: Any, seed: int, name: str = "r") -> None:
        self.manager, self.rng, self.name = manager, random.Random(seed), name
        self.unit = manager.block_pool.hash_block_size
        self.running: list[Any] = []
        self.taken: list[Any] = []
        self.made = 0

    def step(self) -> Any:
        """One call; returns what its caller sees."""
        rng, manager = self.rng, self.manager
        what = rng.random()
        if what < 0.45:
            seen = self.admit()
        elif what < 0.7 and self.running:
            seen = self.go_on(rng.choice(self.running))
        elif what < 0.9 and self.running:
            seen = manager.free(self.running.pop(rng.randrange(len(self.running))))
        elif what < 0.93:
            seen = manager.evict_blocks({rng.randrange(manager.block_pool.num_gpu_blocks)})
        elif what < 0.96 and manager.block_pool.get_num_free_blocks() > 6:
            self.taken.append(manager.block_pool.get_new_blocks(2))
            seen = [block.block_id for block in self.taken[-1]]
        elif self.taken:
            seen = manager.block_pool.free_blocks(self.taken.pop(rng.randrange(len(self.taken))))
        else:
            seen = None
        copies, retained = manager.take_kv_cache_block_copies()
        manager.block_pool.free_blocks(retained)
        manager.new_step_starts()
        return seen, copies, manager.take_new_block_ids()

    def admit(self) -> Any:
        tokens = [*self.rng.choice(DOCUMENTS)[: self.rng.randrange(1, 90)], *[7] * self.rng.randrange(4)]
        self.made += 1
        request = make_request(f"{self.name}{self.made}", tokens, self.unit)
        if self.manager.hints is not None:
            request.cache_hints = self.hints()
        computed, hits, *junction = self.manager.get_computed_blocks(request)
        request.shared_prefix_boundary = junction[0] if junction else 0
        missing = request.num_tokens - hits
        first = self.rng.choice([missing, max(self.unit, missing // self.unit * self.unit // 2)])
        new = self.manager.allocate_slots(request, min(first, missing), hits, computed)
        if new is not None:
            request.num_computed_tokens = hits + min(first, missing)
            self.running.append(request)
        return hits, junction, computed.get_block_ids(), new and new.get_block_ids()

    def hints(self) -> CacheHints | None:
        lifetime = self.rng.choice([None, 0, 5 + self.made / 7, 99 + self.made])  # no two have one end
        hints = CacheHints(self.rng.choice([0, 35, 35, 80]), lifetime, self.rng.choice([None, "a", "b"]))
        return self.rng.choice([None, hints, hints, hints])

    def go_on(self, request: Any) -> Any:
        if request.num_computed_tokens >= request.num_tokens:
            request.append_output_token_ids(self.rng.randrange(3))
        new = self.manager.allocate_slots(request, request.num_tokens - request.num_computed_tokens)
        if new is None:
            self.running.remove(request)
            return self.manager.free(request)
        request.num_computed_tokens = request.num_tokens
        return new.get_block_ids()

    def is_rich(self) -> bool:
        """Whether a snapshot would have something of all that this manager may know."""
        pool = self.manager.block_pool
        if self.manager.hints is not None:
            dated = pool.eviction.array(DEADLINES) > 0
            return bool((dated & (pool.state.free.uses["place"][:-1] >= 0)).sum() > 2)
        return not self.manager.behaviour.keeps_inside or bool(pool.cached_block_hashes_by_block)

    def end(self) -> None:
        """Everybody gives back what they hold, in the order that `KVCacheManager.save` documents."""
        for group in self.manager.coordinator.single_type_managers:
            for name in list(group.req_to_blocks):
                self.manager.free(SimpleNamespace(request_id=name))
        held = self.manager.block_pool.holders.handed_out.nonzero()[0]
        reserved = self.manager.block_pool.num_reserved_blocks
        self.manager.block_pool.free_blocks(held[reserved:])
        self.running.clear()
        self.taken.clear()
        self.manager.new_step_starts()


def everything(manager: Any) -> dict[str, Any]:
    """All that a caller could notice, and further keys of blocks."""
    pool = manager.block_pool
    return {
        **snapshot(manager),
        "aliases": {block: list(keys) for block, keys in pool.prefix_cache.further.aliases.items()},
        "covered": [block.block_hash_num_tokens for block in pool.blocks],
        "events": 0,
    }
