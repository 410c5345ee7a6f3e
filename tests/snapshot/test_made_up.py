"""Arrays that no manager has written, with a right checksum: the error names the section, and nothing is changed."""

from typing import Any

import numpy as np
import pytest
from snapshot.life import Life, everything
from support.managers import full, make_manager, mamba

from kvgpu.config.cache_hints import HintLimits
from kvgpu.errors import SnapshotError
from kvgpu.eviction.policies.tail_first import CLASSES
from kvgpu.eviction.state.arrays import LEARNED
from kvgpu.eviction.state.ghosts import CAPACITY, COUNTS, FIRST_LIST, HEADS, LIST_MASK, NEXT, NO_LIST
from kvgpu.snapshot.archive import packed, unpacked

KINDS: dict[str, Any] = {
    "plain": {"specs": [full(4)], "eviction": "arc"},
    "tail": {"specs": [full(4)], "eviction": "tail-first"},
    "hints": {
        "specs": [full(4)],
        "hints": HintLimits({"a": 0.2}, clock=lambda: 5.0),
        "max_model_len": 100,
        "num_blocks": 60,
    },
    "aliases": {"specs": [full(8), mamba(8, "align")], "behaviour": "0.33", "hash_block_size": 4},
    "long blocks": {"specs": [full(8), full(4)]},
}


def made(kind: str) -> Any:
    options = dict(KINDS[kind])
    return make_manager(*options.pop("specs"), **{"num_blocks": 30, **options})


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    """A path, and for each kind of manager the arrays of one that has lived."""
    path, arrays = tmp_path_factory.mktemp("made_up") / "a", {}
    for kind in KINDS:
        manager = made(kind)
        life = Life(manager, 3)
        for _ in range(150):
            life.step()
        while not life.is_rich():
            life.step()
        manager.save(path)
        arrays[kind] = unpacked(path.read_bytes())
    return path, arrays


def first_alias(arrays: Any) -> int:
    return int(np.flatnonzero(arrays["keys.numbers"] > 0)[0])


def own_key_of(arrays: Any, place: int) -> int:
    block = arrays["keys.blocks"][place]
    return int(np.flatnonzero((arrays["keys.blocks"] == block) & (arrays["keys.numbers"] == 0))[0])


def set_first(name: str, value: Any) -> Any:
    def change(arrays: Any) -> None:
        arrays[name][0] = value

    return change


def set_at(name: str, place: int, value: Any) -> Any:
    def change(arrays: Any) -> None:
        arrays[name][place] = value

    return change


def cut(name: str) -> Any:
    def change(arrays: Any) -> None:
        arrays[name] = arrays[name][:-1]

    return change


def twice(name: str) -> Any:
    def change(arrays: Any) -> None:
        arrays[name][1] = arrays[name][0]

    return change


def one_more(arrays: Any) -> None:
    log = arrays["policy.ghost_log"]
    log[np.flatnonzero(log & LIST_MASK == NO_LIST)[0]] = FIRST_LIST


def same_key(arrays: Any) -> None:
    place = first_alias(arrays)
    for name in ("keys.hashes", "keys.groups"):
        arrays[name][place] = arrays[name][own_key_of(arrays, place)]


def renumber(arrays: Any) -> None:
    arrays["keys.numbers"][first_alias(arrays)] = 7


def show_hashes(arrays: Any) -> None:
    arrays["keys.coarse_lengths"][0] = 64
    arrays["keys.coarse_bytes"] = np.zeros(64, np.uint8)


def other_hashes(arrays: Any) -> None:
    arrays["keys.coarse_bytes"][:] += 1


def odd_key(length: int, **numbers: int) -> Any:
    def change(arrays: Any) -> None:
        arrays["keys.odd_lengths"] = np.array([length], np.int32)
        arrays["keys.odd_bytes"] = np.zeros(max(length, 0), np.uint8)
        fields = {"blocks": 5, "numbers": 0, "tokens": -1} | numbers
        for name, value in fields.items():
            arrays[f"keys.odd_{name}"] = np.array([value], np.int64 if name == "tokens" else np.int32)

    return change


CHANGES: dict[str, tuple[str, Any, str]] = {
    "the null block is cached": ("plain", set_first("keys.blocks", 0), "none of those that can be cached"),
    "no such block is cached": ("plain", set_first("keys.blocks", 30), "none of those that can be cached"),
    "a block below 0 is cached": ("plain", set_first("keys.blocks", -1), "none of those that can be cached"),
    "a block has two keys": ("plain", twice("keys.blocks"), "two keys of its own"),
    "aliases without rows": ("plain", set_first("keys.numbers", 1), "more aliases than the pool has rows for"),
    "a group below 0": ("plain", set_first("keys.groups", -1), "groups has numbers that are not 0 to"),
    "too many tokens": ("plain", set_first("keys.tokens", 1 << 40), "tokens has numbers"),
    "neither shared nor not": ("plain", set_first("keys.shared", 2), "shared has numbers"),
    "an odd width": ("plain", set_first("keys.width", 20), "hashes of 20 bytes"),
    "another width": ("plain", set_first("keys.width", 16), "hashes is uint8"),
    "hashes of a short block": ("plain", show_hashes, "as many, or not its own"),
    "other hashes of a long block": ("long blocks", other_hashes, "as many, or not its own"),
    "a negative length": ("plain", set_first("keys.coarse_lengths", -1), "coarse_lengths has numbers"),
    "an alias that is the own key": ("aliases", same_key, "a key twice"),
    "an alias without a number": ("aliases", renumber, "not numbered"),
    "an odd key without a group": ("plain", odd_key(3), "odd_lengths has numbers"),
    "an odd key of no block": ("plain", odd_key(24, blocks=30), "odd_blocks has numbers"),
    "an odd key that is an alias of nothing": ("long blocks", odd_key(24, numbers=2), "not numbered"),
    "a free block twice": ("plain", twice("order.ids"), "once each"),
    "the null block is free": ("plain", set_first("order.ids", 0), "once each"),
    "another policy": ("plain", set_first("policy.numbers", 0), "those of another policy"),
    "a policy that knows all": ("plain", lambda a: a["policy.numbers"].__setitem__(3, -5), "numbers has numbers"),
    "too many hits": ("plain", set_first("policy.hits", 200), "hits has numbers"),
    "an unknown note": ("plain", set_first("policy.notes", 9), "notes has numbers"),
    "a block in two lists": ("plain", twice("policy.members"), "in two lists"),
    "an unknown list": ("plain", set_first("policy.lists", 3), "lists has numbers"),
    "a member of no pool": ("plain", set_first("policy.members", 30), "members has numbers"),
    "a highest list below others": ("tail", set_at("policy.numbers", LEARNED, 0), "highest list"),
    "a highest list that is none": ("tail", set_at("policy.numbers", LEARNED, CLASSES + 1), "highest list"),
    "an unknown level": ("hints", set_first("hints.levels", 102), "levels has numbers"),
    "an unknown tenant": ("hints", set_first("hints.tenants", 2), "tenants has numbers"),
    "a block with two deadlines": ("hints", twice("hints.dated"), "no heap"),
    "deadlines out of order": ("hints", set_first("hints.left", 10**18), "no heap"),
    "less than no time left": ("hints", set_first("hints.left", -1), "left has numbers"),
    "an evicted key in a list that is none": ("plain", set_first("policy.ghost_log", 3), "disagree"),
    "one more evicted key": ("plain", one_more, "disagree"),
    "fewer places of evicted keys": ("plain", cut("policy.ghost_log"), "ghost_log is"),
    "an evicted key before the first": ("plain", set_at("policy.ghost_numbers", HEADS + 1, 0), "disagree"),
    "an evicted key after the last": ("plain", set_at("policy.ghost_numbers", HEADS + 2, 1 << 40), "disagree"),
    "more evicted keys than numbers": ("plain", set_at("policy.ghost_numbers", NEXT, 1), "disagree"),
    "another count of evicted keys": ("plain", set_at("policy.ghost_numbers", COUNTS + 1, 1 << 40), "disagree"),
    "room for more evicted keys": ("plain", set_at("policy.ghost_numbers", CAPACITY, 31), "disagree"),
    "fewer evicted keys": ("plain", cut("policy.ghosts"), "ghosts is"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_it_is_refused(lived, change):
    path, originals = lived
    kind, damage, match = CHANGES[change]
    arrays = {name: array.copy() for name, array in originals[kind].items()}
    damage(arrays)
    path.write_bytes(packed(arrays))
    manager = made(kind)
    before = everything(manager)
    with pytest.raises(SnapshotError, match=match):
        manager.load(path)
    assert everything(manager) == before
    manager.check()


@pytest.mark.parametrize("kind", KINDS)
def test_unchanged_it_is_loaded(lived, kind):
    path, arrays = lived
    path.write_bytes(packed(arrays[kind]))
    assert made(kind).load(path) > 0
