"""`RunningSlots`: slots for the running requests of an engine, all in one call."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kvgpu.allocation.arguments import ARGUMENT_RECORD
from kvgpu.allocation.running_call import (
    BUSY,
    BUSY_ROWS,
    COUNT_ARRAYS,
    COUNTS,
    FACT_TABLES,
    FACTS,
    FROM,
    NEW_IDS,
    NUM_BUSY,
    NUM_COMPUTED,
    NUM_EVICTED,
    NUM_IDS,
    NUM_IN_FLIGHT,
    NUM_KEYS,
    NUM_NEW,
    NUM_ROWS,
    NUM_TOKENS,
    REPORT_WORDS,
    SERIAL_NUMBER,
    WANTED_IDS,
    WANTED_NOTES,
    allocate_running,
)
from kvgpu.allocation.single_call import SHORT
from kvgpu.allocation.slots import SlotAllocator
from kvgpu.block_tables.request_blocks import RequestBlocks
from kvgpu.block_tables.store import SERIAL
from kvgpu.compiled.handle import Handle
from kvgpu.compiled.list_items import KNOWN_LAYOUT
from kvgpu.errors import ArgumentError
from kvgpu.exclusive import Exclusive, exclusive

Counts = npt.NDArray[np.int64]
NewBlocks = list[tuple[int, tuple[list[int], ...]]]


class Served(NamedTuple):
    """What a call of `RunningSlots.allocate` gave."""

    num_served: int
    """Requests that have their slots; the next one does not fit, or is not a usual call: `allocate_slots` says why."""
    new_blocks: NewBlocks
    """Place and new blocks per group of each of them that got some, in order."""


class RunningSlots(Exclusive):
    """Serves requests that run as `KVCacheManager.allocate_slots` would, one after the other, in one compiled call.

    The engine owns requests, counters and lists of hashes: nothing is copied, and nothing has to be kept in step. What
    is remembered of a request is where its block tables lie.

    Args:
        slots: Of the manager whose blocks are handed out; it serves single calls beside this.

    ::

        slots = RunningSlots(manager.slots)
        count = slots.enter(running)  # once, and whenever other requests run
        served = slots.allocate(num_computed, num_tokens, np.ones(count, np.int64))
    """

    def __init__(self, slots: SlotAllocator) -> None:
        super().__init__(slots.turn)
        self._single = slots
        self._groups = slots.coordinator.single_type_managers
        self._smallest_block = min((group.block_size for group in self._groups), default=1)
        self._held: list[RequestBlocks] = []
        self._lists: list[list[Any]] = []
        self._facts = np.zeros((0, FACTS + len(self._groups)), np.int64)
        self._counts = np.zeros((0, COUNTS), np.int64)
        self._busy = np.zeros((0, BUSY + len(self._groups)), np.int64)
        self._new_ids = np.zeros(0, np.int32)
        self._report = np.zeros(REPORT_WORDS, np.int64)
        self._arguments: Any = np.zeros(1, ARGUMENT_RECORD)
        self._arguments["max_model_len"] = slots.max_model_len
        self._arguments["hash_block_size"] = slots.coordinator.hash_block_size
        self._arguments["caches"] = self._arguments["caching"] = slots.enable_caching
        self._arguments["bytes_type"] = id(bytes)
        self._arguments["clamps"] = slots.block_pool.behaviour.clamps_to_hashes
        self._waits_for_steps = slots.block_pool.behaviour.waits_for_steps
        self._handle: Handle | None = None

    def serves(self) -> bool:
        """Whether all that calls touch lies in arrays now; if not, `allocate` must not be called. O(1)."""
        arrays, pool = self._single.arrays, self._single.block_pool
        if pool.eviction is not None and pool.eviction.shares:
            return False  # each request counts other blocks as free
        return (
            arrays is not None
            and KNOWN_LAYOUT
            and arrays.ready()
            and (pool.state.width is not None or not pool.enable_caching)
        )

    @exclusive
    def enter(self, requests: Sequence[Any]) -> int:
        """Note the requests that run, in order; those noted before are forgotten.

        Args:
            requests: Requests with `request_id`, `num_prompt_tokens` and a list `block_hashes`.

        Returns:
            How many of them, from the first on, can be served: the next one holds no blocks, or keeps its hashes
            otherwise.

        O(requests).
        """
        tables = [group.req_to_blocks for group in self._groups]
        held: list[Any] = []
        lists: list[list[Any]] = []
        facts = []
        for request in requests:
            name, hashes = request.request_id, request.block_hashes
            blocks = [dict.get(table, name) for table in tables] if name.__class__ is str else [None]
            if hashes.__class__ is not list or not all(each.__class__ is RequestBlocks for each in blocks):
                break
            held.append(blocks[0])
            lists.append(hashes)
            facts.append((0, id(hashes), request.num_prompt_tokens, *(each.table_id for each in blocks)))  # type: ignore[union-attr]
        self._held, self._lists = held, lists
        self._facts = np.array(facts, np.int64).reshape(-1, FACTS + len(tables))
        serials = self._single.block_pool.block_tables.tables[:, SERIAL]
        self._facts[:, SERIAL_NUMBER] = serials[self._facts[:, FACTS]]
        self._point(FACT_TABLES, self._facts)
        self._counts = np.zeros((len(held), COUNTS), np.int64)
        self._busy = np.zeros((len(held), BUSY + len(tables)), np.int64)
        self._point(COUNT_ARRAYS, self._counts)
        self._point(BUSY_ROWS, self._busy)
        return len(held)

    @exclusive
    def allocate(
        self,
        num_computed: Counts,
        num_tokens: Counts,
        num_new: Counts,
        num_lookahead: int = 0,
        num_in_flight: Counts | None = None,
    ) -> Served:
        """Give requests slots for their next tokens, in order, until one cannot be served.

        Args:
            num_computed: int64 [n], tokens of each request that have slots; n is at most what `enter` returned.
            num_tokens: int64 [n], tokens of each request.
            num_new: int64 [n], tokens to give slots to; nothing is done for a request with 0. Odd numbers end the call
                at their request, as anything does that is not usual.
            num_lookahead: Draft tokens of each that need slots as well.
            num_in_flight: int64 [n], tokens of steps that have not ended: blocks that these read stay (B40). None if
                there are none; behaviour 0.23 does not look at them.

        Returns:
            How many were served, and their new blocks.

        Raises:
            ArgumentError: There are more numbers than requests.

        O(requests), and expected O(blocks that change). Never waits for a device.
        """
        count, arrays, pool = len(num_computed), self._single.arrays, self._single.block_pool
        assert arrays is not None
        if count > len(self._held):
            raise ArgumentError(f"numbers of {count} requests, but {len(self._held)} were entered")
        self._counts[:count, NUM_COMPUTED] = num_computed
        self._counts[:count, NUM_TOKENS] = num_tokens
        self._counts[:count, NUM_NEW] = num_new
        self._counts[:count, NUM_IN_FLIGHT] = 0 if num_in_flight is None or not self._waits_for_steps else num_in_flight
        num_slots = int(np.clip(num_new, 0, self._single.max_model_len).sum()) + count * num_lookahead
        handle = self._ready_handle(num_slots, count)
        self._arguments["num_lookahead"] = num_lookahead
        self._arguments["hash_width"] = pool.state.width or 0
        arrays.index.settle_for_good()
        arrays.index.handle()
        report = self._report
        report[:] = 0
        report[NUM_ROWS] = count
        while allocate_running(handle.words) == SHORT:
            pool.block_tables.reserve(int(report[WANTED_IDS]))
            arrays.index.handle(int(report[WANTED_NOTES]))
        if report[NUM_KEYS] or report[NUM_EVICTED]:
            arrays.account(int(report[NUM_KEYS]), int(report[NUM_EVICTED]))
        return Served(int(report[FROM]), self._note_busy(int(report[NUM_BUSY]), int(report[NUM_IDS])))

    def most_blocks(self, num_computed: Counts, num_new: Counts, num_lookahead: int) -> int:
        """Return how many blocks `allocate` can take at most with these arguments. O(requests * groups)."""
        most = 0
        for group in self._groups:
            size = group.block_size
            most += int((-(-(num_computed + num_new + num_lookahead) // size) + -num_computed // size).sum())
        return most

    def _note_busy(self, num_busy: int, num_ids: int) -> NewBlocks:
        """Tell the requests and groups that needed something; return new blocks by place."""
        held, ids, new, begin = self._held, self._new_ids[:num_ids].tolist(), [], 0
        num_groups = len(self._groups)
        for place, covered, *numbers in self._busy[:num_busy].tolist():
            held[place].covered_until = covered
            if not any(numbers):
                continue
            lists = []
            for number in numbers:
                lists.append(ids[begin : begin + number])
                begin += number
            new.append((place, tuple(lists)))
        for place in range(num_groups):
            if self._groups[place].records_new_blocks and new:
                self._groups[place].new_ids.note(np.array([id for _, lists in new for id in lists[place]], np.int32))
        return new

    def _ready_handle(self, num_slots: int, count: int) -> Handle:
        """The handle, with room for the blocks of `num_slots` more slots of `count` requests."""
        most = len(self._groups) * (num_slots // self._smallest_block + 2 * count)
        if len(self._new_ids) < most:
            self._new_ids = np.zeros(2 * most, np.int32)
            self._point(NEW_IDS, self._new_ids)
        if self._handle is None:
            arrays = self._single.arrays
            assert arrays is not None
            shared = (arrays.index.handle(), arrays.store.handle.words, arrays.groups, self._arguments)
            own = (self._facts, self._counts, self._busy, self._new_ids, self._report)
            self._handle = Handle((*shared, *own))
        return self._handle

    def _point(self, place: int, array: npt.NDArray[Any]) -> None:
        if self._handle is not None:
            self._handle.point(place, array)
