"""What compiled code gives, frees and refuses in a call, from C or from Python, is what the groups would."""

import numpy as np
import pytest
from support.managers import admit, chunked, decode, full, make_manager, make_request, snapshot, window

from kvgpu.allocation import array_allocator, call_checks
from kvgpu.allocation.single_call import allocate_one
from kvgpu.blocks.block_list import BlockList
from kvgpu.blocks.kv_cache_blocks import KVCacheBlocks
from kvgpu.errors import ArgumentTypeError, BlockIdError, KVGPUError
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.native import Calls

MODELS = {
    "full": ((full(4),), {}),
    "full_eagle": ((full(4),), {"use_eagle": True}),
    "no_caching": ((full(4),), {"enable_caching": False}),
    "window": ((window(4, 10),), {}),
    "full_window": ((full(4), window(4, 8), window(4, 5)), {}),
    "full_chunked": ((full(4), chunked(4, 8)), {}),
    "admissions": ((full(4),), {"counts_admissions": True, "log_stats": True}),
}
LONGEST = 60
ODD_NUMBERS = [
    -1,
    0,
    1,
    3,
    16,
    LONGEST,
    LONGEST + 1,
    2**31 - 1,
    2**31,
    2**63,
    -(2**70),
    True,
    1.5,
    None,
    "4",
    np.int64(5),
    np.uint8(3),
    np.float64(2),
    np.arange(3),
]
SWITCHES = {"delay", "must_fit"}
ODD_SWITCHES = [True, 1, 0.0, None, "yes", np.True_, np.arange(3)]
ODD_IDS = [7, ("a", 1), ["a"], None]


def outcome(call):
    """What became of a call, as plain data."""
    try:
        got = call()
    except KVGPUError as error:
        return type(error), str(error)
    return got if got is None else got.get_block_ids()


def state_of(manager):
    """All that calls change."""
    tables, pool = manager.slots.first_tables, manager.block_pool
    return (
        snapshot(manager),
        [blocks.covered_until for blocks in tables.values()],
        len(pool.index),
        pool.allocator.num_evictions,
        [len(group.new_ids) for group in manager.coordinator.single_type_managers],
        pool.block_tables.num_used(),
        [(manager.get_num_common_prefix_blocks(name), manager.get_block_ids(name)) for name in tables],
    )


class Beside:
    """The same calls to a manager whose compiled code is called from C, to one where Python calls it, and to one that
    has none."""

    def __init__(self, model, seed):
        specs, options = MODELS[model]
        self.rng = np.random.default_rng(seed)
        self.managers = [
            make_manager(*specs, num_blocks=24 * len(specs), max_model_len=LONGEST, **options) for _ in range(3)
        ]
        assert self.managers[0].slots.arrays is not None
        assert (self.managers[0].native is None) == (Calls is None or model == "admissions")
        self.managers[1].native = self.managers[2].native = None
        self.managers[2].slots.arrays = None
        self.running = []
        self.kinds = set()

    def all_three(self, call):
        """Outcome of a call, which is the same for all managers, and leaves the same state."""
        ours, *others = (outcome(lambda m=manager: call(m)) for manager in self.managers)
        assert others == [ours] * 2
        states = [state_of(manager) for manager in self.managers]
        assert states == states[:1] * 3
        self.kinds.add(ours[0] if ours and isinstance(ours[0], type) else ours is not None)
        return ours

    def request(self, step):
        """A new request: with hashes in an array or a list, of two widths, seldom with fewer than it needs."""
        rng = self.rng
        wide = rng.random() < 0.9
        tokens = rng.integers(0, 2, int(rng.integers(1, 40))).tolist()
        request = make_request(f"r{step}", tokens, 4, hashing.sha256 if wide else hashing.xxhash)
        dice = rng.random()
        if dice < 0.6:
            request.block_hashes = list(request.block_hashes)
        elif dice < 0.65:
            request.block_hashes = BlockHashes(list(request.block_hashes)[:1])
        elif dice < 0.7:
            request.block_hashes = tuple(request.block_hashes)
        elif dice < 0.75:
            request.block_hashes = [*request.block_hashes, 5, b""][::-1]
        if rng.random() < 0.05:
            request.request_id = ODD_IDS[int(rng.integers(len(ODD_IDS)))]
        return request

    def damaged(self, arguments):
        """The arguments, one of them odd in a third of all cases."""
        rng = self.rng
        if rng.random() < 0.3:
            name = list(arguments)[int(rng.integers(len(arguments)))]
            choices = ODD_SWITCHES if name in SWITCHES else ODD_NUMBERS
            arguments[name] = choices[int(rng.integers(len(choices)))]
        return arguments

    def hits(self, manager, request, dice):
        """What a lookup finds, in some cases changed into what no lookup does."""
        found, num_hits = manager.get_computed_blocks(request)
        if dice > 0.9 and num_hits:
            other = self.managers[manager is self.managers[0]]
            ids = found.blocks[0].ids
            found = KVCacheBlocks(
                tuple(
                    [
                        BlockList(manager.block_pool.state, ids[::-1].copy()),
                        BlockList(other.block_pool.state, ids),
                        list(found.blocks[0]),
                        BlockList(manager.block_pool.state, np.repeat(ids, 2)[::2]),
                        BlockList(manager.block_pool.state, np.repeat(ids, 2)),
                    ][int(1e6 * dice) % 5]
                    for _ in found.blocks
                )
            )
        return found, num_hits

    def admit(self, step):
        rng = self.rng
        request, dice = self.request(step), rng.random()
        external = int(rng.random() < 0.1) * 5
        odd = self.damaged(
            {
                "new": 0 if external and rng.random() < 0.5 else 1 + int(rng.integers(20)),
                "lookahead": int(rng.integers(3)),
                "external": external,
                "delay": rng.random() < 0.1,
                "encoder": 0,
                "must_fit": rng.random() < 0.3,
                "reserved": int(rng.integers(3)),
                "hit_tokens": None,
            }
        )

        def call(manager):
            found, num_hits = self.hits(manager, request, dice)
            num_hits = num_hits if odd["hit_tokens"] is None else odd["hit_tokens"]
            return manager.allocate_slots(
                request,
                odd["new"],
                num_hits,
                found,
                odd["lookahead"],
                odd["external"],
                odd["delay"],
                odd["encoder"],
                odd["must_fit"],
                odd["reserved"],
            )

        got = self.all_three(call)
        if got is not None and not isinstance(got[0], type):
            held = self.managers[0].get_block_ids(request.request_id)[0]
            if isinstance(request.block_hashes, tuple):
                self.all_three(lambda m: m.free(request))
            elif held:
                request.num_computed_tokens = min(request.num_tokens, 4 * len(held))
                self.running.append(request)

    def go_on(self):
        request = self.running[int(self.rng.integers(len(self.running)))]
        request.append_output_token_ids(self.rng.integers(0, 2, 2).tolist())
        odd = self.damaged({"new": 1 + int(self.rng.integers(4)), "lookahead": 0, "delay": False})
        before = request.num_computed_tokens
        if self.rng.random() < 0.1:
            request.num_computed_tokens = ODD_NUMBERS[int(self.rng.integers(len(ODD_NUMBERS)))]
        got = self.all_three(
            lambda m: m.allocate_slots(
                request, odd["new"], num_lookahead_tokens=odd["lookahead"], delay_cache_blocks=odd["delay"]
            )
        )
        request.num_computed_tokens = before
        if got is not None and not isinstance(got[0], type):
            request.num_computed_tokens = min(request.num_tokens, before + int(odd["new"]))

    def free(self):
        request = self.running.pop(int(self.rng.integers(len(self.running))))
        self.all_three(lambda m: m.free(request))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("model", MODELS)
def test_usual_and_odd_calls_end_as_if_groups_were_asked(model, seed):
    beside = Beside(model, seed)
    for step in range(150):
        dice = beside.rng.random()
        if not beside.running or dice < 0.7:
            beside.admit(step)
        elif dice < 0.75:
            beside.go_on()
        else:
            beside.free()
    for manager in beside.managers:
        manager.check()
    stats = [manager.make_prefix_cache_stats() for manager in beside.managers]
    assert stats == stats[:1] * 3
    assert {True, False} <= beside.kinds
    assert len(beside.kinds) > 3


@pytest.mark.parametrize("hashes", [lambda h: h, list], ids=["array", "list"])
@pytest.mark.parametrize("model", MODELS)
def test_usual_calls_never_come_to_the_groups(model, hashes, monkeypatch):
    specs, options = MODELS[model]
    manager = make_manager(*specs, num_blocks=24 * len(specs), max_model_len=LONGEST, **options)

    def asked(*_):
        raise AssertionError("looked at one by one")

    monkeypatch.setattr(call_checks.SlotNumbers, "checked", asked)
    monkeypatch.setattr(manager.coordinator, "free", asked)
    for name in range(12):
        request = make_request(f"r{name % 5}{name}", 18, 4)
        request.block_hashes = hashes(request.block_hashes)
        assert admit(manager, request) is not None
        decode(manager, request, 6)
        manager.free(request)
    assert manager.block_pool.get_num_free_blocks() == manager.block_pool.num_gpu_blocks - 1


def test_without_the_layout_of_lists_the_groups_serve_them(monkeypatch):
    seen = []
    for known in (True, False):
        monkeypatch.setattr(array_allocator, "KNOWN_LAYOUT", known)
        manager, request = make_manager(full(4)), make_request("a", 18, 4)
        request.block_hashes = list(request.block_hashes)
        assert admit(manager, request) is not None
        decode(manager, request, 6)
        seen.append(snapshot(manager))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("far", [0, 1 << 32])
def test_hits_of_another_dtype_are_compared_with_the_pool_as_they_are(far):
    """Compiled code takes int32; a larger number must not become the id of a block by losing its upper half."""
    manager, request = make_manager(full(4)), make_request("a", 9, 4)
    admit(manager, request)
    again, compiled = make_request("b", 9, 4), len(allocate_one.signatures)
    ids = manager.get_computed_blocks(again)[0].blocks[0].ids.astype(np.int64) + far
    given = KVCacheBlocks((BlockList(manager.block_pool.state, ids),))
    if far:
        with pytest.raises(BlockIdError):
            manager.allocate_slots(again, 1, 8, given)
    else:
        assert manager.allocate_slots(again, 1, 8, given) is not None
    assert len(allocate_one.signatures) == compiled
    manager.check()


@pytest.mark.parametrize("compiled", [True, False])
def test_what_an_admission_counts_is_asked_before_anything_is_changed(compiled):
    manager = make_manager(full(4), counts_admissions=True, log_stats=True)
    if not compiled:
        manager.slots.arrays = None
    request = make_request("a", 9, 4)
    request.num_preemptions, before = "many", snapshot(manager)
    with pytest.raises(ArgumentTypeError, match="num_preemptions"):
        manager.allocate_slots(request, 9)
    assert snapshot(manager) == before
