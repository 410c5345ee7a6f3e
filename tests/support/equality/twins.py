"""Two equal managers: one is asked request by request, the other in batches. Nobody may see a difference."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from support.equality.single_calls import Expected, Pair, ask
from support.managers import snapshot

from kvgpu.batch.manager import BatchManager
from kvgpu.block_tables.store import NUM_CACHED
from kvgpu.manager import KVCacheManager

UNWRITTEN = -77
"""What block tables hold where nothing was written yet."""


def block_tables(manager: KVCacheManager) -> list[dict[str, tuple[list[int], int]]]:
    """Ids and number of handled blocks of every request, per group; makes no objects for them."""
    store = manager.block_pool.block_tables
    tables = []
    for single in manager.coordinator.single_type_managers:
        rows = {name: single.req_to_blocks.table_id_of(name) for name in single.req_to_blocks}
        tables.append(
            {name: (store.of(row).tolist(), int(store.tables[row, NUM_CACHED])) for name, row in rows.items()}
        )
    return tables


def new_tables(kind: str, count: int, shape: tuple[int, int]) -> list[Any] | None:
    """Block tables to be kept up to date: `numpy`, `torch` or `none`."""
    if kind == "none":
        return None
    arrays = [np.full(shape, UNWRITTEN, np.int32) for _ in range(count)]
    if kind == "torch":
        import torch

        return [torch.from_numpy(array) for array in arrays]
    return arrays


class Twins:
    """Asks both managers the same, and compares at once.

    Args:
        single: Asked by single calls.
        batched: Asked through a `BatchManager`.
        tables: Kind of block tables, see `new_tables`.
        max_requests: Rows at the start; they grow as needed.
        max_hashes: Hashes at the start, likewise.

    Attributes:
        pairs: Tracked requests, by row.
        beside: Requests that only single calls serve, on both managers.
    """

    MAX_BLOCKS = 120

    def __init__(
        self,
        single: KVCacheManager,
        batched: KVCacheManager,
        tables: str = "numpy",
        max_requests: int = 4,
        max_hashes: int = 40,
    ) -> None:
        self.single, self.batched = single, batched
        self.batch = BatchManager(batched, max_requests, max_hashes)
        self.pairs: dict[int, Pair] = {}
        self.beside: list[Pair] = []
        self.groups = single.coordinator.single_type_managers
        self._kind = tables
        self.out = new_tables(tables, len(self.groups), (max_requests, self.MAX_BLOCKS))

    def rows(self, running: bool | None = None) -> list[int]:
        """Tracked rows; those that hold blocks, or those that do not."""
        return [row for row, pair in self.pairs.items() if running in (None, pair.running)]

    # Calls

    def track(self, pairs: Sequence[Pair]) -> list[int]:
        self._make_room(len(pairs), sum(len(pair.batched.block_hashes) for pair in pairs))
        rows = self.batch.track([pair.batched for pair in pairs]).tolist()
        self.pairs.update(zip(rows, pairs, strict=True))
        for row, pair in zip(rows, pairs, strict=True):
            # `out` is written where a batch changes blocks; what came along is the caller's.
            for group, ids in enumerate(self.batched.get_block_ids(pair.batched.request_id)):
                if self.out is not None and ids:
                    self.out[group][row, : len(ids)] = self._like_out(ids)
        return rows

    def untrack(self, rows: Sequence[int]) -> list[Pair]:
        self.batch.untrack(np.array(rows, np.int64))
        return [self.pairs.pop(row) for row in rows]

    def allocate(
        self,
        rows: Sequence[int],
        counts: Sequence[int],
        in_flight: Sequence[int],
        stop_when_full: bool = False,
        **options: Any,
    ) -> None:
        """Slots for rows, which have tokens in flight; compares all that is returned."""
        if self._kind != "none":
            self.compare_hits(rows)
        expected, num_tried = [], 0
        for row, count, waiting in zip(rows, counts, in_flight, strict=True):
            num_tried += 1
            self.pairs[row].single.num_in_flight_tokens = waiting
            expected.append(self._ask_single(self.pairs[row], count, options))
            if stop_when_full and not expected[-1].fits:
                break
        expected += [Expected.nothing(len(self.groups))] * (len(rows) - num_tried)
        got = self.batch.allocate_batch(
            np.array(rows, np.int64),
            np.array(counts, np.int64),
            num_in_flight_tokens=np.array(in_flight, np.int64) if any(in_flight) else 0,
            stop_when_full=stop_when_full,
            out=self.out,
            **options,
        )
        for row in rows:
            # Calls beside the batch read it from the requests.
            self.pairs[row].single.num_in_flight_tokens = 0
        assert got.num_tried == num_tried
        assert got.fits.tolist() == [want.fits for want in expected]
        assert got.num_hit_tokens.tolist() == [want.num_hit_tokens for want in expected]
        assert got.num_new_tokens.tolist() == [want.num_new_tokens for want in expected]
        for place, want in enumerate(expected):
            assert got.get_block_ids(place) == want.block_ids
            self.pairs[rows[place]].running |= want.fits
        self._compare_slots(got, expected)
        self._compare_out(rows)

    def append(self, rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> None:
        for row, new in zip(rows, tokens, strict=True):
            self.pairs[row].single.append_output_token_ids(list(new))
        size = self.single.coordinator.hash_block_size
        self._make_room(0, sum(len(new) // size + 1 for new in tokens))
        flat = np.array([token for new in tokens for token in new], np.int64)
        counts = [len(new) for new in tokens]
        same = set(counts) == {1}
        self.batch.append_batch(np.array(rows, np.int64), flat, None if same else counts)

    def append_beside_the_batch(self, row: int, tokens: Sequence[int]) -> None:
        """The request objects get tokens, and the row takes them over."""
        pair = self.pairs[row]
        self._make_room(0, len(tokens))
        self.batch.sync(np.array([row]))
        for request in (pair.single, pair.batched):
            request.append_output_token_ids(list(tokens))
        self.batch.extend(np.array([row]))

    def rewind(self, rows: Sequence[int], counts: Sequence[int]) -> None:
        for row, count in zip(rows, counts, strict=True):
            self.pairs[row].single.num_computed_tokens -= count
        self.batch.rewind(np.array(rows, np.int64), counts)

    def free(self, rows: Sequence[int], preempt: bool = False) -> None:
        for row in rows:
            pair = self.pairs[row]
            self.single.free(pair.single)
            pair.single.num_computed_tokens = 0
            pair.single.num_preemptions += preempt
            pair.running = False
        self.batch.free_batch(np.array(rows, np.int64), preempt=preempt)

    def cache_late(self, row: int) -> None:
        """What a delay has left out is cached, by a single call on both managers."""
        pair = self.pairs[row]
        self.batch.sync(np.array([row]))
        for manager, request in ((self.single, pair.single), (self.batched, pair.batched)):
            manager.cache_blocks(request, min(request.num_computed_tokens, request.num_tokens))

    def ask_both(self, pair: Pair, count: int, **options: Any) -> None:
        """A single call for a request that is not tracked, on both managers."""
        sides = ((self.single, pair.single), (self.batched, pair.batched))
        got = [ask(*side, pair.running, count, options) for side in sides]
        assert got[0] == got[1]
        pair.running |= got[0].fits

    def on_both(self, call: str, *arguments: Any) -> None:
        """The same call of both managers."""
        got = [getattr(manager, call)(*arguments) for manager in (self.single, self.batched)]
        assert got[0] == got[1]

    # Comparison

    def compare(self, full: bool = True) -> None:
        """All that both managers tell and hold; `full` also what asking changes the form of."""
        one, other = self.single, self.batched
        assert block_tables(one) == block_tables(other)
        assert one.take_new_block_ids() == other.take_new_block_ids()
        assert one.take_events() == other.take_events()
        assert one.prefix_cache_stats == other.prefix_cache_stats
        assert one.block_pool.allocator.num_evictions == other.block_pool.allocator.num_evictions
        held = sum(len(single.req_to_blocks) for single in self.batched.coordinator.single_type_managers)
        assert other.block_pool.block_tables.num_used() == held
        self._compare_metrics()
        if full:
            assert snapshot(one) == snapshot(other)
            one.check()
            other.check()

    def compare_hits(self, rows: Sequence[int]) -> None:
        """`match` finds what a lookup of each request would."""
        waiting = [row for row in rows if not self.pairs[row].running]
        hits = self.batch.match(np.array(waiting, np.int64)).num_tokens.tolist()
        for row, num_tokens in zip(waiting, hits, strict=True):
            request = self.pairs[row].single
            counted = self.single.prefix_cache_stats
            self.single.lookups.stats = None
            assert num_tokens == self.single.get_computed_blocks(request)[1]
            self.single.lookups.stats = counted

    def compare_requests(self) -> None:
        """After `sync` the request objects are equal."""
        self.batch.sync()
        for pair in self.pairs.values():
            one, other = pair.single, pair.batched
            assert one.all_token_ids == other.all_token_ids
            assert one.num_computed_tokens == other.num_computed_tokens
            assert list(one.block_hashes) == list(other.block_hashes)
            assert one.num_preemptions == other.num_preemptions

    def _compare_metrics(self) -> None:
        if self.single.metrics_collector is None:
            return
        seen = []
        for collector in (self.single.metrics_collector, self.batched.metrics_collector):
            followed = {block: len(state.access_history) for block, state in collector.block_metrics.items()}
            ended = [len(event.reuse_gaps_seconds) for event in collector.drain_events()]
            seen.append((followed, ended))
        assert seen[0] == seen[1]

    def _compare_slots(self, got: Any, expected: Sequence[Expected]) -> None:
        for group, single in enumerate(self.groups):
            if single.block_size != single.kv_cache_spec.block_size:
                continue
            want = [slot for row in expected for slot in row.slots[group]]
            if len(want) == int(got.num_new_tokens.sum()):
                assert got.slot_mapping(group).tolist() == want

    def _compare_out(self, rows: Sequence[int]) -> None:
        if self.out is None:
            return
        for row in rows:
            if not self.pairs[row].running:
                continue
            name = self.pairs[row].single.request_id
            for table, ids in zip(self.out, self.single.get_block_ids(name), strict=True):
                assert table[row, : len(ids)].tolist() == ids

    # One request

    def _ask_single(self, pair: Pair, count: int, options: dict[str, Any]) -> Expected:
        return ask(self.single, pair.single, pair.running, count, options)

    # Room

    def _make_room(self, num_requests: int, num_hashes: int) -> None:
        rows = self.batch.rows
        max_requests, max_hashes = len(rows.requests), len(rows.hashes.arena)
        if len(rows) + num_requests > max_requests or len(rows.hashes) + num_hashes > max_hashes:
            more = max(max_requests, len(rows) + num_requests)
            self.batch.grow(more, max(max_hashes, len(rows.hashes) + num_hashes + 10))
            larger = new_tables(self._kind, len(self.groups), (more, self.MAX_BLOCKS))
            for old, new in zip(self.out or [], larger or [], strict=True):
                new[: len(old)] = old
            self.out = larger

    def _like_out(self, ids: list[int]) -> Any:
        array = np.array(ids, np.int32)
        if self._kind != "torch":
            return array
        import torch

        return torch.from_numpy(array)
