"""The order `queue-aware` spares what the last batched match found, whatever holds the index."""

import pytest
from support.indexes import without_twins
from support.managers import admit, chunked, full, make_manager, make_request, mamba, window

from kvgpu.batch.queries import BatchQueries

SIZE = 4


def serve(manager, token, num_blocks=10):
    request = make_request(f"r{token}", [token] * (SIZE * num_blocks), SIZE)
    assert admit(manager, request) is not None
    manager.free(request)


def waiting(token, num_blocks=10):
    return make_request(f"w{token}", [token] * (SIZE * num_blocks + 1), SIZE)


def hits(manager, token):
    return manager.get_computed_blocks(waiting(token))[1] // SIZE


def make(*specs, num_blocks=64, **options):
    manager = make_manager(*specs, num_blocks=num_blocks, eviction="queue-aware", **options)
    return manager, BatchQueries(manager, 8, 1000)


@without_twins
def test_what_a_waiting_request_would_hit_is_spared(backend):
    manager, queries = make(full(SIZE), backend=backend)
    for token in range(1, 7):
        serve(manager, token)
    queries.match(queries.track([waiting(1), waiting(3)]))
    for token in range(100, 103):
        serve(manager, token)
    assert [hits(manager, token) for token in range(1, 4)] == [10, 0, 10]
    manager.check()


def test_the_next_match_spares_others():
    manager, queries = make(full(SIZE))
    for token in range(1, 7):
        serve(manager, token)
    rows = queries.track([waiting(1), waiting(3)])
    queries.match(rows)
    serve(manager, 100)
    queries.match(rows[1:])
    for token in range(101, 103):
        serve(manager, token)
    assert [hits(manager, token) for token in (1, 3)] == [0, 10]


def test_what_waits_is_evicted_if_nothing_else_is_left():
    manager, queries = make(full(SIZE))
    for token in range(1, 7):
        serve(manager, token)
    queries.match(queries.track([waiting(token) for token in range(1, 7)]))
    serve(manager, 100)
    assert [hits(manager, token) for token in range(1, 7)] == [3, 10, 10, 10, 10, 10]


@pytest.mark.parametrize("behaviour", ["0.23", "0.33"])
@pytest.mark.parametrize(
    "specs",
    [(full(SIZE), window(SIZE, 8)), (full(SIZE), mamba(SIZE)), (full(SIZE), window(8, 12)), (chunked(SIZE, 16),)],
)
def test_all_that_a_hit_needs_is_spared(specs, behaviour):
    manager, queries = make(*specs, num_blocks=100, behaviour=behaviour)
    serve(manager, 1)
    before = hits(manager, 1)
    assert before >= 8
    rows = queries.track([waiting(1)])
    for token in range(100, 130):
        queries.match(rows)
        serve(manager, token)
    assert hits(manager, 1) == before


def test_blocks_before_the_window_of_a_hit_are_not_spared():
    manager, queries = make(window(SIZE, 8), num_blocks=64)
    serve(manager, 1)
    rows = queries.track([waiting(1)])
    queries.match(rows)
    assert manager.block_pool.eviction.num_expected == 2
