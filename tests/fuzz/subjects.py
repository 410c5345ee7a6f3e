"""What is attacked: managers of all kinds in a small pool, with requests and a batch."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from support.managers import admit, chunked, full, make_manager, make_request, mamba, snapshot, window

from kvgpu.batch.manager import BatchManager
from kvgpu.config.cache_hints import CacheHints, HintLimits
from kvgpu.metrics import KVCacheMetricsCollector

NUM_BLOCKS = 30
MAX_MODEL_LEN = 60
SIZE = 4
LOOKED_AT = 100
"""Rows, of those that there may be after `grow`: the first are handed out first."""

GROUPS = {
    "full": ((full(SIZE),), {}),
    "full + window": ((full(SIZE), window(SIZE, 8)), {}),
    "full + mamba align": ((full(SIZE), mamba(SIZE, "align")), {}),
    "full, hints": ((full(SIZE),), {"hints": HintLimits({"a": 0.2}, trusts_clients=True), "eviction": "slru"}),
    "full + window, hints": ((full(SIZE), window(SIZE, 8)), {"hints": HintLimits(), "eviction": "queue-aware"}),
    "chunked local": ((chunked(SIZE, 8),), {}),
    "context parallel 2": (
        (full(SIZE // 2),),
        {"dcp_world_size": 2, "hash_block_size": SIZE, "scheduler_block_size": SIZE},
    ),
}


class Subject:
    """A manager with requests and a batch, on which right things happen, too.

    Args:
        groups: A name in `GROUPS`.
        backend: Index backend.
        told: Whether there are events, statistics and a collector.
        rng: Decides everything.
    """

    def __init__(self, groups: str, backend: str, told: bool, rng: Any) -> None:
        specs, options = GROUPS[groups]
        options = dict(options)
        if told:
            options |= {
                "enable_kv_cache_events": True,
                "log_stats": True,
                "metrics_collector": KVCacheMetricsCollector(1.0),
            }
        self.name = f"{groups}, {backend}, {'told' if told else 'not told'}"
        self.rng, self.told, self.backend = rng, told, backend
        self.manager = make_manager(
            *specs, num_blocks=NUM_BLOCKS, max_model_len=MAX_MODEL_LEN, backend=backend, **options
        )
        self.other = make_manager(*specs, num_blocks=NUM_BLOCKS, max_model_len=MAX_MODEL_LEN, **options)
        admit(self.other, make_request("elsewhere", 20, SIZE))
        self.batch = BatchManager(self.manager, 6, 120)
        self.running: list[Any] = []
        self.tracked: dict[int, Any] = {}
        self.taken: list[Any] = []
        self.count = 0

    def new_request(self) -> Any:
        self.count += 1
        length = self.rng.randrange(1, 40)
        shared = self.rng.randrange(length + 1)
        tokens = [*range(shared), *(1000 * self.count + i for i in range(length - shared))]
        request = make_request(f"r{self.count}", tokens, SIZE)
        if self.manager.hints is not None:
            hints = {"priority": self.rng.randrange(101), "lifetime": self.rng.choice([None, 0.0, 1.0]), "tenant": "a"}
            request.cache_hints = self.rng.choice([None, CacheHints(**hints)])
            request.kv_transfer_params = {"cache_hints": hints}
        return request

    def live(self) -> None:
        """Something that is right happens, so that the state does not stand still."""
        rng, manager, batch = self.rng, self.manager, self.batch
        what = rng.random()
        if len(self.running) > 3 or (what < 0.2 and self.running):
            manager.free(self.running.pop(rng.randrange(len(self.running))))
        elif what < 0.5:
            request = self.new_request()
            if admit(manager, request) is not None:
                self.running.append(request)
        elif what < 0.6 and self.running:
            request = rng.choice(self.running)
            if request.num_tokens < MAX_MODEL_LEN - 2:
                request.append_output_token_ids(7)
                if manager.allocate_slots(request, 1) is not None:
                    request.num_computed_tokens += 1
                else:
                    self.running.remove(request)
                    manager.free(request)
        elif what < 0.75 and len(self.tracked) < 5:
            request = self.new_request()
            row = batch.track([request])
            self.tracked[int(row[0])] = request
            batch.allocate_batch(row, MAX_MODEL_LEN)
        elif what < 0.85 and self.tracked:
            row = np.array([rng.choice(list(self.tracked))])
            batch.free_batch(row)
            batch.untrack(row)
            del self.tracked[int(row[0])]
        elif self.taken:
            manager.block_pool.free_blocks(self.taken.pop())
        elif manager.block_pool.get_num_free_blocks() > 10:
            self.taken.append(manager.block_pool.get_new_blocks(2))
        manager.new_step_starts()
        manager.take_events()

    def state(self) -> dict[str, Any]:
        """All that a refused call must leave as it was."""
        rows = self.batch.rows
        records = rows.records[:LOOKED_AT]
        return {
            **snapshot(self.manager),
            "rows": records[[name for name in records.dtype.names if name != "stamp"]].tolist(),
            "capacity": (len(rows.records), len(rows.hashes.arena)),
            "arena": len(rows.hashes),
            "requests": [
                (r.request_id, len(r.all_token_ids), len(r.block_hashes), r.num_computed_tokens)
                for r in (*self.running, *self.tracked.values())
            ],
            "pins": {name: ids.tolist() for name, ids in self.manager.block_pool.holders.pins.items()},
            "handed out": self.manager.block_pool.holders.handed_out.tolist(),
            "store": self.manager.block_pool.block_tables.num_used(),
        }

    def check(self) -> None:
        """See that everything agrees."""
        self.manager.check()

    def forget_strangers(self) -> None:
        """Free what odd calls have brought in, so that the pool does not fill up."""
        pool = self.manager.block_pool
        taken = np.bincount([block.block_id for blocks in self.taken for block in blocks], minlength=NUM_BLOCKS)
        if (taken != pool.holders.handed_out).any():
            pool.free_blocks(np.repeat(np.arange(NUM_BLOCKS), pool.holders.handed_out))
            self.taken = []
        for name in list(pool.holders.pins):
            self.manager.unpin(name)
        known = {r.request_id for r in (*self.running, *self.tracked.values())}
        for single in self.manager.coordinator.single_type_managers:
            for name in [n for n in single.req_to_blocks if n not in known]:
                self.manager.free(SimpleNamespace(request_id=name))
        tracked = {int(row) for row in self.batch.rows.all()}
        strangers = np.array(sorted(tracked - set(self.tracked)), np.int64)
        self.batch.free_batch(strangers)
        self.batch.untrack(strangers)
        for row in [row for row in self.tracked if row not in tracked]:
            del self.tracked[row]
