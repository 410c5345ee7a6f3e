"""The public calls of a subject and of what needs none: right ones, and some that are odd as they are."""

from typing import Any, NamedTuple

import makers
import numpy as np
from subjects import SIZE, Subject
from support.managers import make_request

from kvgpu.batch.ordering import held_back, longest_prefix_first, num_that_fit
from kvgpu.blocks.kv_cache_blocks import KVCacheBlocks
from kvgpu.blocks.state import KVCacheBlock


class Call(NamedTuple):
    """A call. arguments: all by name. about: the request that it is about, or None. is_odd: it is not right as it is.

    may_run_out: So much may be asked for that a MemoryError is the right answer.
    """

    name: str
    function: Any
    arguments: dict[str, Any]
    about: Any = None
    is_odd: bool = False
    may_run_out: bool = False


class Target(Subject):
    """A subject with the calls that can be made to it: methods whose names begin with `call_`."""

    def rows(self) -> Any:
        rows = list(self.tracked)
        self.rng.shuffle(rows)
        return np.array(rows[: self.rng.randrange(1, len(rows) + 1)] if rows else [], np.int64)

    def call(self) -> Call:
        """One of all calls."""
        names = [name for name in dir(self) if name.startswith("call_")]
        while True:
            made: Call | None = getattr(self, self.rng.choice(names))()
            if made is not None:
                return made

    def _call_of(self, cases: Any) -> Call | None:
        """A call of what needs no manager; asked once for all backends."""
        if self.backend != "host":
            return None
        name = self.rng.choice(list(cases))
        function, arguments = cases[name]()
        return Call(name, function, arguments, may_run_out=True)

    def call_of_specs(self) -> Call | None:
        return self._call_of(makers.SPECS)

    def call_of_parts(self) -> Call | None:
        return self._call_of(makers.PARTS)

    def call_of_blocks(self) -> Call | None:
        return self._call_of(makers.BLOCKS)

    def call_grow(self) -> Call:
        arguments = {"max_requests": len(self.batch.rows.records) + 40, "max_hashes": 1000}
        return Call("batch.grow", self.batch.grow, arguments, may_run_out=True)

    def call_get_computed_blocks(self) -> Call:
        request = self.new_request()
        return Call("get_computed_blocks", self.manager.get_computed_blocks, {"request": request}, request)

    def call_allocate_slots(self) -> Call:
        request = self.new_request()
        computed, hits = self.manager.get_computed_blocks(request)
        missing = request.num_tokens - hits
        external = self.rng.randrange(missing) // SIZE * SIZE if self.rng.random() < 0.4 else 0
        arguments = {
            "request": request,
            "num_new_tokens": missing - external,
            "num_new_computed_tokens": hits,
            "new_computed_blocks": computed,
            "num_lookahead_tokens": self.rng.randrange(3),
            "num_external_computed_tokens": external,
            "delay_cache_blocks": self.rng.random() < 0.3,
            "num_encoder_tokens": 0,
            "full_sequence_must_fit": self.rng.random() < 0.3,
            "reserved_blocks": self.rng.randrange(3),
        }
        return Call("allocate_slots", self.manager.allocate_slots, arguments, request)

    def call_with_odd_hits(self) -> Call:
        """Computed blocks that are none of this request's, in one way or another."""
        rng, pool = self.rng, self.manager.block_pool
        request = make_request(f"odd{self.count}", [9_000_000 + i for i in range(40)], SIZE)
        groups = len(self.manager.coordinator.single_type_managers)
        blocks: Any = rng.choice(
            [
                lambda: [KVCacheBlock(7)],
                lambda: [block for block in pool.blocks[1:] if block.block_hash is None][:1],
                lambda: [pool.blocks[3], pool.null_block],
                lambda: [pool.blocks[2]] * 2,
                lambda: list(self.other.get_blocks("elsewhere").blocks[0]),
                lambda: np.array([rng.choice([-1, -3, 30, 31, 5000, 2**31 - 1])], np.int32),
                list,
            ]
        )()
        arguments = {
            "request": request,
            "num_new_tokens": 4,
            "num_new_computed_tokens": SIZE * max(len(blocks), 1),
            "new_computed_blocks": KVCacheBlocks((blocks,) * groups),
        }
        return Call("allocate_slots", self.manager.allocate_slots, arguments, request, True)

    def call_with_odd_ids(self) -> Call:
        """Ids and blocks that this pool cannot have handed out."""
        rng, pool = self.rng, self.manager.block_pool
        name, argument = rng.choice([("touch", "blocks"), ("free_blocks", "ordered_blocks")])
        if name == "free_blocks" and rng.random() < 0.3:
            # Free blocks, and those of requests; 0 is the null block.
            others = np.flatnonzero(pool.holders.handed_out == 0)[1:]
            arguments = {argument: np.array([rng.choice(others)])}
            return Call("pool.free_blocks", pool.free_blocks, arguments, None, True)
        odd: Any = rng.choice(
            [
                lambda: np.array([rng.choice([-1, -2, 30, 31, 127, 5000, 10**6])]),
                lambda: [KVCacheBlock(7)],
                lambda: list(self.other.get_blocks("elsewhere").blocks[0]),
                lambda: np.array([2**64 - 1], np.uint64),
                lambda: np.array([1.5]),
            ]
        )()
        return Call(f"pool.{name}", getattr(pool, name), {argument: odd}, None, True)

    def call_decode(self) -> Call | None:
        if not self.running:
            return None
        request = self.rng.choice(self.running)
        left = request.num_tokens - request.num_computed_tokens
        arguments = {"request": request, "num_new_tokens": max(left, 1), "num_lookahead_tokens": 0}
        return Call("allocate_slots (running)", self.manager.allocate_slots, arguments, request)

    def call_free(self) -> Call:
        request = self.new_request()
        return Call("free", self.manager.free, {"request": request}, request)

    def call_cache_blocks(self) -> Call | None:
        if not self.running:
            return None
        request = self.rng.choice(self.running)
        arguments = {"request": request, "num_computed_tokens": request.num_computed_tokens}
        return Call("cache_blocks", self.manager.cache_blocks, arguments, request)

    def call_by_id(self) -> Call:
        name = self.rng.choice(self.running).request_id if self.running else "nobody"
        function, argument = self.rng.choice(
            [
                (self.manager.get_num_common_prefix_blocks, "running_request_id"),
                (self.manager.get_blocks, "request_id"),
                (self.manager.get_block_ids, "request_id"),
            ]
        )
        return Call(function.__name__, function, {argument: name})

    def call_remove_skipped_blocks(self) -> Call:
        arguments = {"request_id": "nobody", "total_computed_tokens": 4}
        return Call("remove_skipped_blocks", self.manager.remove_skipped_blocks, arguments)

    def call_evict_blocks(self) -> Call:
        return Call("evict_blocks", self.manager.evict_blocks, {"block_ids": [1, 2, 3]})

    def call_pin(self) -> Call:
        request = self.rng.choice(self.running) if self.running and self.rng.random() < 0.5 else self.new_request()
        arguments = {"request": request, "num_tokens": self.rng.choice([None, 8, request.num_tokens])}
        return Call("pin", self.manager.pin, arguments, request)

    def call_unpin(self) -> Call:
        return Call("unpin", self.manager.unpin, {"request_id": "nobody"})

    def call_reset(self) -> Call | None:
        return Call("reset_prefix_cache", self.manager.reset_prefix_cache, {}) if self.rng.random() < 0.1 else None

    def call_pool(self) -> Call:
        pool, rng = self.manager.block_pool, self.rng
        blocks = self.taken[0] if self.taken else []
        calls = [
            ("touch", {"blocks": blocks}),
            ("free_blocks", {"ordered_blocks": blocks, "prepend": False}),
            ("get_new_blocks", {"num_blocks": 0}),
            ("allocate", {"num_blocks": 0}),
            ("evict_blocks", {"block_ids": [4]}),
            ("get_cached_block", {"block_hash": b"h" * 32, "kv_cache_group_ids": [0]}),
        ]
        name, arguments = rng.choice(calls)
        return Call(f"pool.{name}", getattr(pool, name), arguments)

    def call_cache_full_blocks(self) -> Call | None:
        pool = self.manager.block_pool
        if pool.get_num_free_blocks() < 6:
            return None
        request = self.new_request()
        arguments = {
            "request": request,
            "blocks": [pool.blocks[i] for i in range(1, 4)],
            "num_cached_blocks": 0,
            "num_full_blocks": 0,
            "block_size": SIZE,
            "kv_cache_group_id": 0,
            "block_mask": None,
        }
        return Call("pool.cache_full_blocks", pool.cache_full_blocks, arguments, request)

    def call_track(self) -> Call | None:
        if len(self.tracked) > 4:
            return None
        request = self.new_request()
        return Call("track", self.batch.track, {"requests": [request]}, request)

    def call_rows(self) -> Call:
        rows = self.rows()
        calls = [
            ("match", {}),
            ("sync", {}),
            ("extend", {}),
            ("untrack", {}),
            ("free_batch", {"preempt": False}),
            ("append_batch", {"tokens": np.full(len(rows), 7), "counts": np.ones(len(rows), np.int64)}),
            ("append_batch", {"tokens": [5] * len(rows), "counts": None}),
            ("rewind", {"num_tokens": 0}),
            ("set_computed", {"num_tokens": 0}),
        ]
        name, more = self.rng.choice(calls)
        if name in ("untrack", "free_batch"):
            rows = rows[:0]
        return Call(f"batch.{name}", getattr(self.batch, name), {"rows": rows, **more})

    def call_allocate_batch(self) -> Call:
        rows = self.rows()
        groups = len(self.manager.coordinator.single_type_managers)
        arguments = {
            "rows": rows,
            "num_new_tokens": self.rng.choice([1, np.ones(len(rows), np.int64)]),
            "num_lookahead_tokens": 0,
            "delay_cache_blocks": False,
            "full_sequence_must_fit": False,
            "reserved_blocks": 0,
            "stop_when_full": False,
            "out": self.rng.choice([None, [np.zeros((6, 40), np.int32) for _ in range(groups)]]),
        }
        return Call("batch.allocate_batch", self.batch.allocate_batch, arguments)

    def call_with_odd_arrays(self) -> Call | None:
        """Arrays of another length than the rows, and tables that cannot be written."""
        rows = np.array(list(self.tracked), np.int64)
        groups = len(self.manager.coordinator.single_type_managers)
        if not len(rows):
            return None
        if self.rng.random() < 0.5:
            arguments = {"rows": self.batch.rows, "queue": rows, "hit_hashes": np.full(len(rows) - 1, 9)}
            return Call("held_back", held_back, arguments, None, True)
        tables = [np.zeros((6, 40), np.int32) for _ in range(groups)]
        tables[-1].flags.writeable = False
        arguments = {"rows": rows, "num_new_tokens": 1, "out": tables}
        return Call("batch.allocate_batch", self.batch.allocate_batch, arguments, None, True)

    def call_ordering(self) -> Call:
        rows = self.rows()
        return self.rng.choice(
            [
                Call(
                    "held_back",
                    held_back,
                    {
                        "rows": self.batch.rows,
                        "queue": rows,
                        "hit_hashes": np.zeros(len(rows), np.int64),
                        "may_wait": None,
                    },
                ),
                Call(
                    "longest_prefix_first",
                    longest_prefix_first,
                    {"hit_tokens": [1, 2], "waited": [0.5, 3.0], "age_limit": 1.0},
                ),
                Call("num_that_fit", num_that_fit, {"needed_blocks": [1, 2], "free_blocks": 2}),
            ]
        )
