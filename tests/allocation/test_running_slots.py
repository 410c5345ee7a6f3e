"""Slots that running requests get in one call are those of single calls, and so is the state they leave."""

import numpy as np
import pytest
from support.managers import admit, chunked, full, make_manager, make_request, mamba, snapshot, window

from kvgpu.allocation.running_slots import RunningSlots
from kvgpu.errors import ArgumentError

MODELS = {
    "full": ((full(4),), {}),
    "no_caching": ((full(4),), {"enable_caching": False}),
    "window": ((window(4, 10),), {}),
    "full_window": ((full(4), window(4, 8), window(4, 5)), {}),
    "full_chunked": ((full(4), chunked(4, 8)), {}),
    "window 0.33": ((window(4, 10),), {"behaviour": "0.33"}),
    "full_window 0.33": ((full(4), window(4, 8), window(4, 5)), {"behaviour": "0.33"}),
}


def engine_request(name, tokens):
    """A request with its hashes in a list, as engines keep them."""
    request = make_request(name, tokens, 4)
    request.block_hashes = list(request.block_hashes)
    return request


def append(request, token):
    """Another token; the list of hashes stays the same object."""
    known = request.block_hashes
    longer = make_request(request.request_id, [*request.all_token_ids, token], 4)
    request.prompt_token_ids, request.block_hashes = longer.prompt_token_ids, longer.block_hashes
    request.append_output_token_ids([])
    known[:] = list(longer.block_hashes)
    longer.block_hashes, longer.num_prompt_tokens = known, request.num_prompt_tokens
    longer.num_computed_tokens = request.num_computed_tokens
    return longer


class Twins:
    """A manager that serves running requests in one call, and one that serves them one by one."""

    def __init__(self, model, seed, blocks=40):
        specs, options = MODELS[model]
        self.rng = np.random.default_rng(seed)
        self.managers = [
            make_manager(*specs, num_blocks=blocks * len(specs), max_model_len=90, **options) for _ in range(2)
        ]
        self.slots = RunningSlots(self.managers[0].slots)
        self.running = [[], []]

    def admit(self, name):
        tokens = self.rng.integers(0, 2, int(self.rng.integers(1, 30))).tolist()
        made = [engine_request(name, tokens) for _ in self.managers]
        got = [admit(manager, request) for manager, request in zip(self.managers, made, strict=True)]
        assert (got[0] is None) == (got[1] is None)
        if got[0] is not None:
            for running, request in zip(self.running, made, strict=True):
                running.append(request)

    def step(self):
        """Requests get a token each, some of them, and drafts; returns how many were served."""
        many, one_by_one = self.running
        count = self.slots.enter(many)
        new = self.rng.integers(0, 3, len(many))
        for place, number in enumerate(new.tolist()):
            for _ in range(number):
                token = int(self.rng.integers(0, 2))
                many[place], one_by_one[place] = append(many[place], token), append(one_by_one[place], token)
        lookahead = int(self.rng.integers(0, 3))
        in_flight = self.rng.integers(0, 12, count)
        for request, number in zip(one_by_one, in_flight.tolist(), strict=False):
            request.num_in_flight_tokens = number
        columns = [[r.num_computed_tokens for r in many[:count]], [r.num_tokens for r in many[:count]], new[:count]]
        served = self.slots.allocate(*(np.array(column, np.int64) for column in columns), lookahead, in_flight)
        expected, num_served = [], 0
        for place, (request, number) in enumerate(zip(one_by_one[:count], new.tolist(), strict=False)):
            if number:
                blocks = self.managers[1].allocate_slots(request, number, num_lookahead_tokens=lookahead)
                if blocks is None:
                    break
                if any(blocks.get_block_ids()):
                    expected.append((place, blocks.get_block_ids()))
            num_served += 1
        assert served.num_served == num_served
        assert served.new_blocks == expected
        assert snapshot(self.managers[0]) == snapshot(self.managers[1])
        quiet = [[blocks.covered_until for blocks in m.slots.first_tables.values()] for m in self.managers]
        assert quiet[0] == quiet[1]
        for running in self.running:
            for request, number in zip(running[:num_served], new.tolist(), strict=False):
                request.num_computed_tokens += number
        return num_served

    def end(self, place):
        for manager, running in zip(self.managers, self.running, strict=True):
            manager.free(running.pop(place))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("model", MODELS)
def test_results_and_state_are_those_of_single_calls(model, seed):
    twins = Twins(model, seed)
    for step in range(60):
        if len(twins.running[0]) < 5:
            twins.admit(f"r{step}")
        served = twins.step()
        # What did not fit goes, and what would become too long.
        for place in reversed(range(len(twins.running[0]))):
            if place >= served or twins.running[0][place].num_tokens > 80 or twins.rng.random() < 0.05:
                twins.end(place)
    twins.managers[0].check()


class TestWhoIsServed:
    @pytest.fixture
    def twins(self):
        twins = Twins("full", seed=1)
        for name in "abc":
            twins.admit(name)
        return twins

    def ones(self, twins, count):
        requests = twins.running[0][:count]
        computed = [request.num_computed_tokens for request in requests]
        return [np.array(each, np.int64) for each in (computed, computed, [1] * count)]

    def test_requests_from_the_first_to_one_without_blocks(self, twins):
        stranger = engine_request("stranger", [1, 2, 3])
        assert twins.slots.enter([*twins.running[0][:2], stranger, twins.running[0][2]]) == 2

    def test_a_request_whose_hashes_are_not_in_a_list_is_not(self, twins):
        twins.running[0][1].block_hashes = tuple(twins.running[0][1].block_hashes)
        assert twins.slots.enter(twins.running[0]) == 1

    def test_one_that_has_lost_its_blocks_ends_the_call(self, twins):
        twins.slots.enter(twins.running[0])
        twins.managers[0].free(twins.running[0][1])
        admit(twins.managers[0], engine_request("new", list(range(9))))
        before = snapshot(twins.managers[0])
        served = twins.slots.allocate(*self.ones(twins, 3))
        assert served.num_served == 1
        assert snapshot(twins.managers[0]).keys() == before.keys()

    @pytest.mark.parametrize("odd", [-1, -(2**40), 2**40, 91])
    @pytest.mark.parametrize("column", [0, 1, 2])
    def test_odd_numbers_end_the_call_and_change_nothing(self, twins, column, odd):
        twins.slots.enter(twins.running[0])
        columns = self.ones(twins, 1)
        columns[0][0] += 40
        columns[column][0] = odd
        before = snapshot(twins.managers[0])
        if column == 1 and odd > 0:
            columns[0][0] += 4  # more full blocks than hashes
        assert twins.slots.allocate(*columns).num_served == 0
        assert snapshot(twins.managers[0]) == before

    def test_so_does_a_negative_number_in_flight(self):
        twins = Twins("full_window 0.33", seed=1)
        twins.admit("a")
        twins.slots.enter(twins.running[0])
        columns = self.ones(twins, 1)
        columns[0][0] += 40
        assert twins.slots.allocate(*columns, 0, np.array([-1])).num_served == 0

    def test_more_numbers_than_requests_are_refused(self, twins):
        twins.slots.enter(twins.running[0][:2])
        with pytest.raises(ArgumentError, match="3 requests, but 2 were entered"):
            twins.slots.allocate(*self.ones(twins, 3))

    def test_a_manager_with_states_outside_arrays_is_not_served(self):
        assert not RunningSlots(make_manager(mamba(4, "align", spare=1)).slots).serves()

    def test_nor_is_one_that_has_cached_nothing_yet(self, twins):
        assert not RunningSlots(make_manager(full(4)).slots).serves()
        assert twins.slots.serves()


@pytest.mark.parametrize(("behaviour", "num_in_flight", "kept"), [("0.33", 12, 3), ("0.33", 0, 0), ("0.23", 12, 0)])
def test_blocks_that_a_step_in_flight_reads_stay(behaviour, num_in_flight, kept):
    """Of the first three blocks, which the next token does not attend to."""
    manager = make_manager(window(4, 4), behaviour=behaviour, max_model_len=90)
    request = engine_request("a", range(16))
    assert admit(manager, request)
    slots = RunningSlots(manager.slots)
    slots.enter([request])
    longer = append(request, 7)
    numbers = [np.array([number], np.int64) for number in (longer.num_computed_tokens, longer.num_tokens, 1)]
    assert slots.allocate(*numbers, 0, np.array([num_in_flight])).num_served == 1
    null = manager.block_pool.null_block.block_id
    assert sum(block != null for block in manager.get_block_ids("a")[0][:3]) == kept


def test_no_more_blocks_are_counted_than_can_be_taken():
    twins = Twins("full_window", seed=3, blocks=200)
    for name in "abcdef":
        twins.admit(name)
    manager = twins.managers[0]
    for _ in range(10):
        count = twins.slots.enter(twins.running[0])
        computed = np.array([request.num_computed_tokens for request in twins.running[0]], np.int64)
        most = twins.slots.most_blocks(computed, np.full(count, 2), 2)
        free = manager.block_pool.get_num_free_blocks()
        twins.step()
        assert free - manager.block_pool.get_num_free_blocks() <= most
