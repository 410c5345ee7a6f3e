"""What requests say of their blocks reaches the order of eviction, by single calls and by batches."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
from support.indexes import without_twins
from support.managers import admit, full, make_manager, make_request, mamba, window

from kvgpu.allocation.running_slots import RunningSlots
from kvgpu.batch.manager import BatchManager
from kvgpu.config.cache_hints import CacheHints, HintLimits
from kvgpu.errors import ArgumentError, ArgumentTypeError, ConcurrentUseError, ConfigError
from kvgpu.eviction.state.arrays import NODES

SIZE = 4


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Server:
    """A manager whose requests are served one after the other, and hold nothing afterwards."""

    def __init__(self, *specs, batched=False, num_blocks=64, max_model_len=80, backend=None, **limits):
        self.clock = Clock()
        limits = HintLimits(clock=self.clock, **limits)
        specs = specs or (full(SIZE),)
        options = {"num_blocks": num_blocks, "max_model_len": max_model_len, "backend": backend}
        self.manager = make_manager(*specs, hints=limits, **options)
        self.batch = BatchManager(self.manager, 8, 1000) if batched else None

    def start(self, token, num_blocks=10, **attributes):
        """Serve a request whose tokens are all the same; return it, or None if it does not fit."""
        request = make_request(f"r{token}", [token] * (SIZE * num_blocks), SIZE, **attributes)
        if self.batch is None:
            return request if admit(self.manager, request) is not None else None
        rows = self.batch.track([request])
        if self.batch.allocate_batch(rows, request.num_tokens).fits.all():
            return request
        self.batch.untrack(rows)
        return None

    def end(self, request):
        if self.batch is None:
            self.manager.free(request)
            return
        rows = np.array([self.batch.rows.row_of(request.request_id)])
        self.batch.free_batch(rows)
        self.batch.untrack(rows)

    def serve(self, token, num_blocks=10, **attributes):
        request = self.start(token, num_blocks, **attributes)
        assert request is not None
        self.end(request)

    def flood(self, count=12, first=1000, **attributes):
        """Serve requests that nobody asks for again: more than the pool holds."""
        for token in range(first, first + count):
            self.serve(token, **attributes)

    def hits(self, token, num_blocks=10):
        """Blocks that are cached of such a request, but for the last, which is never hit."""
        request = make_request("asks", [token] * (SIZE * num_blocks + 1), SIZE)
        return self.manager.get_computed_blocks(request)[1] // SIZE


every_path = pytest.mark.parametrize("batched", [False, True], ids=["single", "batch"])


@every_path
@without_twins
def test_a_high_priority_outlasts_a_flood(backend, batched):
    server = Server(backend=backend, batched=batched)
    server.serve(1, cache_hints=CacheHints(priority=80))
    server.serve(2)
    server.flood()
    assert (server.hits(1), server.hits(2)) == (10, 0)
    server.manager.check()


@every_path
def test_a_low_priority_goes_before_older_blocks(batched):
    server = Server(batched=batched)
    server.serve(1)
    server.serve(2, cache_hints=CacheHints(priority=5))
    server.flood(5)
    assert (server.hits(1), server.hits(2)) == (10, 3)


@every_path
def test_what_outlives_its_time_goes_first(batched):
    server = Server(batched=batched)
    server.serve(1, cache_hints=CacheHints(priority=80, lifetime=60))
    server.serve(2)
    server.flood(2)
    server.clock.now = 59
    server.flood(1, first=3000)
    assert server.hits(1) == 10
    server.clock.now = 61
    server.flood(2, first=2000)
    assert (server.hits(1), server.hits(2)) == (0, 10)


def test_what_outlives_its_time_may_still_be_hit():
    server = Server()
    server.serve(1, cache_hints=CacheHints(lifetime=1))
    server.clock.now = 5
    server.serve(2, 1)
    assert server.hits(1) == 10


def test_the_highest_priority_and_the_latest_end_count():
    server = Server()
    server.serve(1, cache_hints=CacheHints(priority=80, lifetime=10))
    server.serve(1, cache_hints=CacheHints(priority=10, lifetime=100))
    server.clock.now = 50
    server.flood()
    assert server.hits(1) == 9  # the second request had to compute its last block


@every_path
@without_twins
def test_a_tenant_that_floods_does_not_evict_what_others_keep(backend, batched):
    server = Server(backend=backend, batched=batched, shares={"victim": 0.25}, max_model_len=160)
    server.serve(1, cache_hints=CacheHints(tenant="victim"))
    flooding = CacheHints(priority=100, tenant="flood")
    server.flood(30, cache_hints=flooding)
    assert server.hits(1) == 10
    running = []
    for token in range(2000, 2010):
        request = server.start(token, cache_hints=flooding)
        if request is None:
            break
        running.append(request)
    assert len(running) == 5  # of 63 blocks 10 are kept
    assert server.hits(1) == 10
    assert server.start(3, 1, cache_hints=CacheHints(tenant="victim")) is not None
    server.manager.check()


def test_a_tenant_keeps_no_more_than_its_share():
    server = Server(shares={"a": 0.125})
    server.serve(1, 10, cache_hints=CacheHints(tenant="a"))
    server.serve(2, 10, cache_hints=CacheHints(tenant="a"))
    server.flood()
    assert (server.hits(1), server.hits(2)) == (0, 8)


def test_a_tenant_may_use_what_it_keeps():
    server = Server(shares={"a": 0.25}, max_model_len=160)
    server.serve(1, 15, cache_hints=CacheHints(tenant="a"))
    server.serve(2, 40)
    assert server.start(3, 40, cache_hints=CacheHints(tenant="a")) is not None
    assert server.start(4, 20, cache_hints=CacheHints(tenant="a")) is not None


def test_the_longest_request_fits_whatever_tenants_keep():
    server = Server(shares={"a": 0.3, "b": 0.3}, num_blocks=64, max_model_len=100)
    for token in range(40):
        server.serve(token, cache_hints=CacheHints(tenant="ab"[token % 2]))
    assert server.start(1000, 25) is not None


def test_shares_that_leave_no_room_for_the_longest_request_are_refused():
    with pytest.raises(ConfigError, match="longest request needs 25"):
        Server(shares={"a": 0.7}, max_model_len=100)


def test_masks_go_first():
    """Blocks that have left the window are given back before the request says anything of them."""
    server = Server(full(SIZE), window(SIZE, 8), num_blocks=64)
    request = make_request("r", [1] * 40, SIZE, cache_hints=CacheHints(priority=90))
    for _ in range(10):
        assert server.manager.allocate_slots(request, SIZE) is not None
        request.num_computed_tokens += SIZE
    server.manager.free(request)
    server.flood()
    assert server.hits(1) == 10
    levels = server.manager.block_pool.eviction.array(NODES)["level"]
    assert np.count_nonzero(levels == 91) == 10 + 3


@pytest.mark.parametrize("specs", [(full(SIZE), mamba(SIZE)), (full(SIZE), window(SIZE, 8)), (mamba(SIZE),)])
@every_path
def test_all_kinds_of_groups_keep_what_a_hit_needs(specs, batched):
    server = Server(*specs, batched=batched, num_blocks=100)
    server.serve(1, cache_hints=CacheHints(priority=80))
    server.flood()
    assert server.hits(1) == 10


@pytest.mark.parametrize(("shares", "serves"), [({}, True), ({"a": 0.1}, False)])
def test_running_requests_of_an_engine_are_served_one_by_one_where_tenants_have_shares(shares, serves):
    server = Server(shares=shares)
    server.serve(1)
    assert RunningSlots(server.manager.slots).serves() == serves


def test_blocks_that_wait_for_a_step_in_flight_keep_what_was_said_of_them():
    server = Server()
    request = server.start(1, cache_hints=CacheHints(priority=80))
    waiting = server.manager.pop_blocks_for_free(request)
    server.flood(4)
    server.manager.block_pool.free_blocks(waiting[::-1])
    server.flood()
    assert server.hits(1) == 10


def test_copies_go_their_own_ways():
    server = Server()
    server.serve(1, cache_hints=CacheHints(priority=80))
    other = copy.deepcopy(server)
    server.flood()
    other.manager.reset_prefix_cache()
    assert (server.hits(1), other.hits(1)) == (10, 0)


@pytest.mark.parametrize("place", ["kv_transfer_params", "extra_args"])
@pytest.mark.parametrize("trusts", [False, True])
def test_clients_may_send_hints_where_they_are_trusted(place, trusts):
    server = Server(trusts_clients=trusts)
    request = make_request("r1", [1] * 40, SIZE)
    sent = {"cache_hints": {"priority": 80, "lifetime": 100.0}}
    if place == "extra_args":
        request.sampling_params = SimpleNamespace(extra_args=sent)
    else:
        request.kv_transfer_params = sent
    admit(server.manager, request)
    server.manager.free(request)
    server.flood()
    assert server.hits(1) == (10 if trusts else 0)


@pytest.mark.parametrize(
    "sent",
    [None, 5, "high", [80], {"priority": 101}, {"priority": "high"}, {"rank": 3}, {"lifetime": float("nan")}, {3: 4}],
)
def test_bad_hints_of_clients_count_as_none(sent):
    server = Server(trusts_clients=True)
    request = make_request("r1", [1] * 40, SIZE)
    request.kv_transfer_params = {"cache_hints": sent}
    admit(server.manager, request)
    server.manager.free(request)
    server.flood()
    assert server.hits(1) == 0


def test_hints_that_are_none_are_refused_before_anything_changes():
    server = Server(shares={"a": 0.1})
    request = make_request("r1", [1] * 40, SIZE)
    request.cache_hints = {"priority": 3}
    with pytest.raises(ArgumentTypeError, match="CacheHints are expected"):
        server.manager.allocate_slots(request, 40)
    request.cache_hints = None
    admit(server.manager, request)
    request.cache_hints = 80
    with pytest.raises(ArgumentTypeError, match="CacheHints are expected"):
        server.manager.free(request)
    assert len(server.manager.get_block_ids("r1")[0]) == 10
    server.manager.check()


@pytest.mark.parametrize("time", [float("nan"), float("inf"), 1e30, "late"])
def test_a_clock_without_a_time_is_refused_before_anything_changes(time):
    server = Server()
    request = server.start(1)
    server.clock.now = time
    with pytest.raises(ArgumentError, match="clock"):
        server.manager.free(request)
    assert len(server.manager.get_block_ids("r1")[0]) == 10


def test_odd_hints_of_one_row_leave_the_whole_batch_as_it_was():
    server = Server(batched=True, shares={"a": 0.1})
    requests = [make_request(name, [place] * 40, SIZE) for place, name in enumerate("ab")]
    rows = server.batch.track(requests)
    requests[1].cache_hints = "high"
    with pytest.raises(ArgumentTypeError, match="CacheHints are expected"):
        server.batch.allocate_batch(rows, 40)
    assert server.manager.block_pool.get_num_free_blocks() == 63


def test_a_refused_thread_says_nothing_of_blocks():
    server = Server()
    request = server.start(1, cache_hints=CacheHints(priority=80))
    server.manager.turn.holders[0] = None  # as a thread that is inside
    with pytest.raises(ConcurrentUseError):
        server.manager.free(request)
    server.manager.turn.holders.clear()
    assert not server.manager.block_pool.eviction.array(NODES)["level"].any()
