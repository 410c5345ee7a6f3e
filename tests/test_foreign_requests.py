"""Requests of other engines: the manager serves any object that has what it reads, as it serves its own requests."""

from types import SimpleNamespace

from support.managers import accounts_balance, admit, full, make_manager, make_request, per_backend, snapshot, window

from kvgpu.request import Request


def foreign(request):
    """The same request as an object that has only what the manager reads."""
    return SimpleNamespace(
        request_id=request.request_id,
        num_tokens=request.num_tokens,
        num_prompt_tokens=request.num_prompt_tokens,
        num_computed_tokens=0,
        num_preemptions=0,
        all_token_ids=list(request.all_token_ids),
        block_hashes=list(request.block_hashes),
        skip_reading_prefix_cache=False,
    )


def outcome(backend, convert):
    """State, events and results of one scenario whose requests are converted before use."""
    manager = make_manager(full(8), window(4, 8), num_blocks=30, enable_kv_cache_events=True, backend=backend)
    results = []
    for name, tokens in (("a", 21), ("b", 40), ("c", 21)):
        request = convert(make_request(name, tokens, 4))
        results.append(admit(manager, request).get_block_ids())
        if name == "b":
            manager.free(request)
    state = snapshot(manager)
    return results, state, manager.take_events(), accounts_balance(manager)


@per_backend
def test_foreign_request_objects_behave_like_our_own(backend):
    mine, theirs = outcome(backend, lambda request: request), outcome(backend, foreign)
    assert isinstance(foreign(make_request("x", 9, 4)).block_hashes, list)
    assert theirs == mine


@per_backend
def test_foreign_requests_and_our_own_hit_each_others_blocks(backend):
    manager = make_manager(full(4), backend=backend)
    admit(manager, foreign(make_request("a", 8, 4)))
    own = make_request("b", 13, 4)
    assert isinstance(own, Request)
    assert manager.get_computed_blocks(own)[1] == 8
    admit(manager, own)
    assert manager.get_computed_blocks(foreign(make_request("c", 13, 4)))[1] == 12


@per_backend
def test_a_request_without_tokens_hits_nothing(backend):
    manager = make_manager(full(4), backend=backend)
    admit(manager, make_request("a", 40, 4))
    empty = SimpleNamespace(
        request_id="e", block_hashes=[], num_tokens=0, skip_reading_prefix_cache=False, num_preemptions=0
    )
    blocks, length = manager.get_computed_blocks(empty)
    assert (blocks.get_block_ids(), length) == (([],), 0)
