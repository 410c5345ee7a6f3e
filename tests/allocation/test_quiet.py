"""Shortcuts of `allocate_slots`, a guard and compiled code, change nothing but the time it takes."""

import numpy as np
import pytest
from support.managers import admit, chunked, full, make_manager, make_request, mamba, snapshot, window

MODELS = {
    "full": ((full(4),), {}),
    "full_eagle": ((full(4),), {"use_eagle": True}),
    "no_caching": ((full(4),), {"enable_caching": False}),
    "window": ((window(4, 10),), {}),
    "window_no_caching": ((window(4, 7),), {"enable_caching": False}),
    "chunked": ((chunked(4, 12),), {}),
    "mamba": ((mamba(4, "align", spare=1),), {}),
    "hybrid": ((full(8), window(4, 8), window(2, 5)), {}),
    "hybrid_even": ((full(4), window(4, 8), window(4, 5)), {}),
    "hybrid_even_eagle": ((full(4), window(4, 11)), {"use_eagle": True}),
    "hybrid_eagle": ((full(8), window(4, 8)), {"eagle_groups": [1]}),
    "full_chunked": ((full(4), chunked(4, 8)), {}),
}
LOOKAHEAD = [0, 0, 0, 1, 3]


def serve(model, seed, guarded, compiled, monkeypatch):
    """Decodes, drafts, rejections, delays, preemptions; all results and all state after each call."""
    rng = np.random.default_rng(seed)
    specs, options = MODELS[model]
    manager = make_manager(*specs, num_blocks=40 * len(specs), max_model_len=120, **options)
    if not guarded:
        monkeypatch.setattr(manager.slots, "covers", lambda *call: False)
    if not compiled:
        monkeypatch.setattr(manager.slots, "arrays", None)
    size, running, seen = manager.coordinator.hash_block_size, {}, []
    for step in range(120):
        manager.new_step_starts()
        if len(running) < 3:
            request = make_request(f"r{step}", rng.integers(0, 3, rng.integers(1, 30)).tolist(), size)
            if admit(manager, request) is not None:
                running[request.request_id] = request
        for name in list(running):
            request, dice = running[name], rng.random()
            if dice < 0.05:
                manager.free(request)
                del running[name]
                continue
            request.append_output_token_ids(rng.integers(0, 3, int(rng.integers(1, 3))).tolist())
            missing = request.num_tokens - request.num_computed_tokens
            blocks = manager.allocate_slots(
                request, missing, num_lookahead_tokens=int(rng.choice(LOOKAHEAD)), delay_cache_blocks=bool(dice < 0.1)
            )
            seen.append(None if blocks is None else blocks.get_block_ids())
            if blocks is None or request.num_tokens > 110:
                manager.free(request)
                del running[name]
            else:
                # Some of what was computed is rejected, as drafts are.
                request.num_computed_tokens = request.num_tokens - int(dice > 0.9)
            seen.append(snapshot(manager))
    manager.check()
    return seen


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("model", MODELS)
def test_results_and_state_are_those_of_asking_every_group(model, seed, monkeypatch):
    plain = serve(model, seed, False, False, monkeypatch)
    monkeypatch.undo()
    assert serve(model, seed, True, False, monkeypatch) == plain
    monkeypatch.undo()
    assert serve(model, seed, True, True, monkeypatch) == plain


@pytest.mark.parametrize("model", [name for name in MODELS if name not in ("mamba", "hybrid")])
def test_models_with_one_hash_in_a_block_are_served_by_compiled_code(model):
    specs, options = MODELS[model]
    assert (make_manager(*specs, **options).slots.arrays is None) == (model == "hybrid_eagle")


def test_a_quiet_request_asks_no_group(monkeypatch):
    manager, request = make_manager(full(8)), make_request("a", 9, 8)
    admit(manager, request)

    def asked(*_):
        raise AssertionError("a group was asked")

    monkeypatch.setattr(manager.slots.arrays, "allocate", asked)
    for _ in range(6):
        request.append_output_token_ids(7)
        blocks = manager.allocate_slots(request, 1)
        assert blocks is manager.empty_kv_cache_blocks
        request.num_computed_tokens += 1
    request.append_output_token_ids(7)
    with pytest.raises(AssertionError, match="a group was asked"):
        manager.allocate_slots(request, 1)
