"""Random scheduler steps for twins: whatever a scheduler may do, and more."""

from typing import Any

import numpy as np
from support.equality.models import Model, Prompts
from support.equality.twins import Pair, Twins

TABLES = ("numpy", "torch", "none")


class RandomSteps:
    """A random episode with one pair of managers.

    Args:
        model: Cache groups and requests.
        backend: Index of the manager that is asked in batches.
        seed: Everything follows from it.
    """

    def __init__(self, model: Model, backend: str, seed: int) -> None:
        self.rng = rng = np.random.default_rng(seed)
        num_blocks = int(rng.choice([14, 24, 50, 100])) * len(model.specs)
        # Single calls ask group by group in one half of the episodes, and compiled code in the other.
        oracle = "reference" if self.chance(0.5) else backend
        managers = [model.manager(num_blocks, name) for name in (oracle, backend)]
        self.model, self.num_blocks = model, num_blocks
        self.twins = Twins(*managers, tables=str(rng.choice(TABLES)))
        self.prompts = Prompts(model, managers[0].coordinator.hash_block_size, rng)
        self.looks_often = self.chance(0.7)

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def number(self, low: int, high: int) -> int:
        """One of low, ..., high."""
        return int(self.rng.integers(low, high + 1))

    def some(self, rows: list[int], probability: float) -> list[int]:
        """A part of the rows in random order."""
        chosen = [row for row in rows if self.chance(probability)]
        self.rng.shuffle(chosen)
        return chosen

    def run(self, num_batches: int) -> None:
        """So many batches, compared after each; then everything is given back."""
        for _ in range(num_batches):
            self.twins.on_both("new_step_starts")
            self.arrive()
            self.allocate()
            self.twins.compare(full=self.looks_often)
            self.generate()
            self.disturb()
            self.leave()
            self.twins.compare(full=self.looks_often)
        self.twins.compare_requests()
        self.finish()

    def arrive(self) -> None:
        room = 7 - len(self.twins.pairs)
        if room > 0 and self.chance(0.6):
            new = [Pair(*self.prompts.pair()) for _ in range(self.number(1, min(4, room)))]
            self.twins.track(new)

    def allocate(self) -> None:
        rows = self.some(self.twins.rows(), 0.8)
        most = int(self.rng.choice([1, 1, 5, 40]))
        asked = [(row, self.number(1, most)) for row in rows]
        fitting = [(row, count) for row, count in asked if self.suits(self.twins.pairs[row], count)]
        rows, counts = [row for row, _ in fitting], [count for _, count in fitting]
        in_flight = [self.number(0, 12) if self.chance(0.3) else 0 for _ in rows]
        self.twins.allocate(rows, counts, in_flight, stop_when_full=self.chance(0.3), **self.options())

    def suits(self, pair: Pair, count: int) -> bool:
        """Whether the model is long enough for so many tokens more; a batch asks that of the whole of a new request."""
        request = pair.single
        num_tokens = request.num_computed_tokens + (count if pair.running else request.num_tokens)
        return num_tokens <= self.twins.single.max_model_len

    def options(self) -> dict[str, Any]:
        return {
            "num_lookahead_tokens": int(self.rng.choice([0, 0, 0, 2, 9])),
            "delay_cache_blocks": self.chance(0.1),
            "full_sequence_must_fit": self.chance(0.2),
            "reserved_blocks": int(self.rng.choice([0, 0, 0, 1, 6])),
        }

    def generate(self) -> None:
        rows = self.some(self.twins.rows(running=True), 0.6)
        if rows:
            most = int(self.rng.choice([1, 1, 3, 90], p=[0.5, 0.2, 0.27, 0.03]))
            lengths = [self.number(min(1, most - 1), most) for _ in rows]
            tokens = [self.rng.integers(0, 5, length).tolist() for length in lengths]
            self.twins.append(rows, tokens)
        rows = self.some(self.twins.rows(running=True), 0.2)
        computed = [self.twins.pairs[row].single.num_computed_tokens for row in rows]
        self.twins.rewind(rows, [min(self.number(0, 5), count) for count in computed])

    def disturb(self) -> None:
        """What happens beside the batch."""
        twins, rows = self.twins, self.twins.rows()
        if rows and self.chance(0.1):
            twins.append_beside_the_batch(rows[0], self.rng.integers(0, 5, 6).tolist())
        if rows and self.chance(0.1):
            twins.cache_late(rows[-1])
        if rows and self.chance(0.1):
            self.come_back(self.some(rows, 0.4))
        if self.chance(0.05):
            twins.on_both("evict_blocks", [self.number(0, self.num_blocks - 1) for _ in range(3)])
        if self.chance(0.05):
            twins.on_both("reset_prefix_cache")
        if self.chance(0.3):
            self.serve_beside()

    def come_back(self, rows: list[int]) -> None:
        """Requests leave the batch, are served by single calls, and come back."""
        pairs = self.twins.untrack(rows)
        for pair in pairs:
            count = self.number(1, 9)
            if pair.running and self.suits(pair, count) and self.chance(0.5):
                self.twins.ask_both(pair, count)
        self.twins.track(pairs)

    def serve_beside(self) -> None:
        twins = self.twins
        if len(twins.beside) < 2:
            odd = self.model.odd_neighbours and self.chance(0.7)
            twins.beside.append(Pair(*self.prompts.pair(odd)))
        pair = twins.beside[self.number(0, len(twins.beside) - 1)]
        if self.chance(0.4):
            self.free_beside(pair)
        else:
            for request in (pair.single, pair.batched):
                request.append_output_token_ids([1, 2])
            count = self.number(1, 12)
            if self.suits(pair, count):
                twins.ask_both(pair, count, **self.options())

    def free_beside(self, pair: Pair) -> None:
        self.twins.beside.remove(pair)
        self.twins.single.free(pair.single)
        self.twins.batched.free(pair.batched)

    def leave(self) -> None:
        twins = self.twins
        long = [row for row in twins.rows() if twins.pairs[row].single.num_tokens > 150]
        rows = self.some(twins.rows(), 0.12)
        how = self.number(0, 2)
        if how == 0:
            twins.free([row for row in rows if twins.pairs[row].running], preempt=True)
            rows = []
        if how == 1:
            twins.free(rows)
            twins.untrack(rows)
            rows = []
        for pair in twins.untrack(list({*rows, *long} & set(twins.pairs))):
            twins.single.free(pair.single)
            twins.batched.free(pair.batched)

    def finish(self) -> None:
        """Without requests all blocks are free, and no row of the store is open."""
        twins = self.twins
        twins.free(twins.rows())
        for pair in list(twins.beside):
            self.free_beside(pair)
        twins.compare()
        copied = [manager.take_kv_cache_block_copies() for manager in (twins.batched, twins.single)]
        assert copied[0][0] == copied[1][0]
        for manager, (_, retained) in zip((twins.batched, twins.single), copied, strict=True):
            manager.block_pool.free_blocks(retained)
        assert twins.batched.usage == twins.single.usage
        assert twins.batched.reset_prefix_cache()
