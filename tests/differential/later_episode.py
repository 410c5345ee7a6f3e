"""What a scheduler of a later vLLM does besides: junctions, steps in flight, deferred frees, lookups for connectors."""

from collections import Counter
from inspect import signature
from typing import Any

import msgspec
from episode import Episode
from systems import plain


def used_ids(blocks: list[Any]) -> list[int]:
    """Ids without those of null blocks, which vLLM leaves out in front since 0.33, and which nobody frees."""
    return [block.block_id for block in blocks if not block.is_null]


def decoded(events: list[Any]) -> list[Any]:
    """What a subscriber reads of events; a map of more fields, some of them left out, may have a longer header."""
    return [msgspec.msgpack.decode(encoded) for encoded in plain(events)]


class LaterEpisode(Episode):
    """Drives two systems as a scheduler of the oracle's version would; its arguments are those of a `Comparison`."""

    def __init__(self, seed: int, ours: Any, oracle: Any, counts: Counter[str]) -> None:
        super().__init__(seed, ours, oracle, counts)
        if not self.behaviour.clamps_to_hashes:
            self.compares["pop_blocks_for_free"] = used_ids
            self.compares["take_events"] = decoded
        self.deferred: list[Any] = []
        """Blocks of requests that have ended, of both systems, which steps in flight may still read."""

    def has(self, name: str) -> bool:
        """Whether the oracle's manager has a method, as its version decides."""
        return hasattr(self.systems[1].manager, name)

    def create(self) -> None:
        super().create()
        self._set_status(self.waiting[-1], "WAITING")

    def _set_status(self, request_id: str, name: str) -> None:
        """As the oracle has it: kvgpu reads only the name."""
        self._set(request_id, status=self.systems[1].modules["request"].RequestStatus[name])

    def look_up(self, request_id: str) -> Any:
        if self.rng.random() < 0.1 and self.has("get_computed_blocks_for_connector"):
            self.call("get_computed_blocks_for_connector", request_id)
        limit = {}
        takes_limit = "max_cache_hit_length" in signature(self.systems[1].manager.get_computed_blocks).parameters
        if self.rng.random() < 0.1 and takes_limit:
            limit["max_cache_hit_length"] = self.rng.randrange(self.systems[0].requests[request_id].num_tokens)
        found = self.call("get_computed_blocks", request_id, **limit)
        (blocks, num_hits, *junction), theirs = found
        if junction:
            self._set(request_id, shared_prefix_boundary=junction[0])
        if self.behaviour.notes_junction:
            self.compare_notes()
        self.counts["seen: hits inside a block"] += any(num_hits % size for size in self.config.block_sizes)
        step = self.config.scheduler_block_size
        if self.has("truncate_computed_blocks") and num_hits >= step and self.rng.random() < 0.1:
            shorter = self.rng.randrange(num_hits // step + 1) * step
            self.call("truncate_computed_blocks", None, num_computed_tokens=shorter, blocks=[blocks, theirs[0]])
        return found

    def compare_notes(self) -> None:
        """What a lookup leaves with the coordinator, where there are several groups."""
        name = "num_uncached_common_prefix_tokens"
        noted = [getattr(system.manager.coordinator, name, 0) for system in self.systems]
        if noted[0] != noted[1]:
            self._differ(f"{name}: ours {noted[0]}, oracle {noted[1]}")

    def more_of_admission(self, request_id: str) -> dict[str, Any]:
        if self.behaviour.waits_for_steps:
            self._set(request_id, num_in_flight_tokens=0)
        return {"has_scheduled_reqs": self.rng.random() < 0.6}

    def admitted(self, request_id: str, num_hits: int) -> None:
        if self.has("record_prefix_cache_stats"):
            self.call("record_prefix_cache_stats", request_id, num_hits)
        self._set_status(request_id, "RUNNING")

    def before_step(self, request_id: str, computed: int) -> None:
        if not self.behaviour.waits_for_steps:
            return
        in_flight = self.rng.choice([0, 0, 1, self.rng.randrange(computed + 1)])
        self._set(request_id, num_in_flight_tokens=in_flight)

    def give_up(self, request_id: str) -> None:
        if self.rng.random() < 0.5:
            self.call("free", request_id)
            return
        mine, theirs = self.call("pop_blocks_for_free", request_id)
        self.deferred.append([mine, theirs])
        if self.rng.random() < 0.8:
            self.settle()

    def preempt(self, request_id: str) -> None:
        super().preempt(request_id)
        self._set_status(request_id, "PREEMPTED")

    def settle(self) -> None:
        """The steps that read blocks of ended requests have ended."""
        for pair in self.deferred:
            for system, blocks in zip(self.systems, pair, strict=True):
                system.manager.block_pool.free_blocks(reversed(blocks))
        self.counts["free_blocks"] += len(self.deferred)
        self.deferred.clear()
        self.compare_states()

    def positions(self, request: Any) -> list[int]:
        if not self.config.mamba_align:
            return []
        unit, options = self.config.hash_block_size, self.config.options
        drops, lookahead = options["use_eagle"], options.get("num_hash_lookahead_tokens", 0)
        limit = request.num_prompt_tokens - (0 if drops else max(1, lookahead))
        return [limit // unit * unit - unit * drops, getattr(request, "shared_prefix_boundary", 0) // unit * unit]

    def make_copies(self) -> None:
        """The step that is scheduled makes copies of blocks, which are given back after it."""
        if not self.has("take_kv_cache_block_copies"):
            return
        (_, mine), (_, theirs) = self.call("take_kv_cache_block_copies", None)
        if mine:
            self.counts["seen: copies of blocks"] += len(mine) // 2
            self.deferred.append([mine[::-1], theirs[::-1]])

    def admit(self) -> None:
        super().admit()
        if self.rng.random() < 0.5:
            self.make_copies()

    def step(self) -> None:
        super().step()
        if self.rng.random() < 0.5:
            self.make_copies()

    def sundry(self) -> None:
        choice = self.rng.randrange(7)
        request_id = self.rng.choice(self.running) if self.running else None
        if choice == 0:
            self.settle()
        elif choice == 1 and self.has("take_boundary_state_offloads"):
            self.call("take_boundary_state_offloads", None)
        elif choice == 2 and request_id is not None and self.has("estimate_cached_tokens"):
            self.call("estimate_cached_tokens", request_id)
        elif choice == 3 and request_id is not None and self.has("get_block_ids_for_computed_tokens"):
            computed = self.systems[0].requests[request_id].num_computed_tokens
            self.call("get_block_ids_for_computed_tokens", None, request_id, computed)
        elif choice == 4 and request_id is not None and self.has("record_blocks_for_zeroing"):
            self.call("record_blocks_for_zeroing", None, request_id, 0)
        elif choice == 5 and request_id is not None and self.has("finalize_partial_tail_offloads"):
            self.call("finalize_partial_tail_offloads", request_id)
        else:
            super().sundry()

    def run(self, num_actions: int) -> None:
        super().run(num_actions)
        self.make_copies()
        self.settle()
