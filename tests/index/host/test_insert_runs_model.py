"""Random calls to `host`, where blocks lead to each other, and to the dict of `reference`: the answers are the same."""

import numpy as np
import pytest
from support.managers import cached_id, full, make_manager, make_request, window

from kvgpu.hashing.functions import BlockHash

SIZE = 4
MODELS = {
    "full": (full(SIZE),),
    "two full": (full(SIZE), window(SIZE, 8), full(SIZE)),
    "window": (full(SIZE), window(SIZE, 8)),
}


class Pair:
    """The same calls on `host` and on `reference`, whose answers must be the same."""

    def __init__(self, specs):
        self.managers = [make_manager(*specs, num_blocks=40, backend=backend) for backend in ("host", "reference")]
        self.running = []

    def both(self, call):
        mine, expected = (call(manager, place) for place, manager in enumerate(self.managers))
        assert mine == expected
        return mine

    def admit(self, name, tokens, by_hand):
        requests = [make_request(name, tokens, SIZE) for _ in self.managers]
        if by_hand:
            for request in requests:
                # Each block twice: a key that follows two others.
                request.block_hashes = [h for h in request.block_hashes for _ in range(2)][: len(request.block_hashes)]

        def call(manager, place):
            blocks, hit = manager.get_computed_blocks(requests[place])
            new = manager.allocate_slots(requests[place], len(tokens) - hit, hit, blocks)
            if new is not None:
                requests[place].num_computed_tokens = len(tokens)
            return hit, None if new is None else new.get_block_ids()

        if self.both(call)[1] is not None:
            self.running.append(requests)

    def append(self, requests, tokens):
        def call(manager, place):
            requests[place].append_output_token_ids(tokens)
            new = manager.allocate_slots(requests[place], len(tokens))
            if new is not None:
                requests[place].num_computed_tokens += len(tokens)
            return None if new is None else new.get_block_ids()

        if self.both(call) is None:
            self.free(requests)

    def free(self, requests):
        self.running.remove(requests)
        for manager, request in zip(self.managers, requests, strict=True):
            manager.free(request)


@pytest.mark.parametrize("by_hand", [False, True], ids=["hashed", "some hashes by hand"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("seed", range(4))
def test_nobody_can_tell_which_blocks_are_led(model, by_hand, seed):
    rng = np.random.default_rng(seed)
    pair = Pair(MODELS[model])
    documents = [rng.integers(0, 9, 60).tolist() for _ in range(3)]
    seen = []
    for step in range(150):
        draw = rng.random()
        if draw < 0.4:
            end = rng.integers(1, 50)
            tokens = documents[rng.integers(3)][:end] + rng.integers(0, 9, 5).tolist()
            seen += make_request("seen", tokens, SIZE).block_hashes[:]
            pair.admit(f"r{step}", tokens, by_hand and rng.random() < 0.2)
        elif draw < 0.6 and pair.running:
            pair.append(pair.running[rng.integers(len(pair.running))], rng.integers(0, 9, 3).tolist())
        elif draw < 0.8 and pair.running:
            pair.free(pair.running[rng.integers(len(pair.running))])
        elif draw < 0.9:
            ids = {int(i) for i in rng.integers(1, 40, 3)}
            pair.both(lambda manager, _, ids=ids: manager.evict_blocks(ids))
        elif draw < 0.95 and seen:
            asked = BlockHash(seen[rng.integers(len(seen))])
            pair.both(lambda manager, _, asked=asked: cached_id(manager, asked))
        elif draw < 0.97:
            while pair.running:
                pair.free(pair.running[0])
            pair.both(lambda manager, _: manager.reset_prefix_cache())
    for manager in pair.managers:
        manager.check()
