"""Whatever a file holds: a manager begins with it and works, or an error says why not and nothing is changed."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from snapshot.life import Life, everything
from support.bounded import bounded, num_inputs
from support.managers import full, make_manager, mamba, window

from kvgpu.config.cache_hints import HintLimits
from kvgpu.errors import SnapshotError
from kvgpu.eviction.state.arrays import GHOST_LINES, NODES, NUM_ARRAYS
from kvgpu.eviction.state.ghosts import Ghosts, counts_agree
from kvgpu.snapshot.archive import packed, unpacked

MEMORY = 1 << 28
SECONDS = 20

KINDS = [
    *[{"specs": (full(4),), "eviction": name} for name in ("lru", "slru", "lfu", "s3fifo", "arc", "tinylfu")],
    {"specs": (full(4), window(4, 10)), "eviction": "tail-first"},
    {"specs": (full(8), window(4, 9)), "eviction": "arc"},
    {"specs": (full(4),), "hints": HintLimits({"a": 0.1}), "max_model_len": 100},
    {"specs": (full(8), mamba(8, "align")), "behaviour": "0.33", "hash_block_size": 4},
]
WITH_ALIASES = len(KINDS) - 1
numbers_of_kinds = st.sampled_from([*range(len(KINDS)), *[WITH_ALIASES] * 3])
ODD_NUMBERS = [-1, 0, 1, 2, 7, 29, 30, 31, 255, 1 << 31, (1 << 31) - 1, -(1 << 31), (1 << 62), (1 << 63) - 1]
DTYPES = [np.uint8, np.int32, np.int64, np.float64, np.int16, "S3", ">i4"]


def made(kind):
    kind = dict(kind)
    return make_manager(*kind.pop("specs"), num_blocks=30, **kind)


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory):
    """Of each kind of manager: the file of one that has lived, its arrays, and what a new one looks like."""
    path, found = tmp_path_factory.mktemp("snapshots") / "a", []
    for kind in KINDS:
        manager = made(kind)
        life = Life(manager, 3)
        for _ in range(150):
            life.step()
        while manager.behaviour.keeps_inside and not manager.block_pool.cached_block_hashes_by_block:
            life.step()
        manager.save(path)
        data = path.read_bytes()
        found.append(SimpleNamespace(data=data, arrays=unpacked(data), new=everything(made(kind))))
    return SimpleNamespace(path=path, of=found)


def lists_agree(eviction):
    """Whether the lists of a policy lead from each member to the next and back, and nowhere else."""
    arrays = [eviction.array(place) for place in range(NUM_ARRAYS)]
    nodes, counts = arrays[NODES : NODES + 2]
    after, before, list_of = nodes["after"], nodes["before"], nodes["lane"][: len(nodes) - len(counts)]
    assert (list_of < len(counts)).all()
    for number, count in enumerate(counts.tolist()):
        place = end = len(list_of) + number
        for _ in range(count):
            assert before[after[place]] == place
            place = after[place]
            assert list_of[place] == number
        assert (after[place], before[end]) == (end, place)
        assert (list_of == number).sum() == count
    assert counts_agree(Ghosts(*arrays[GHOST_LINES : GHOST_LINES + 3]))


def check(snapshots, number, data):
    """What is promised of any file."""
    snapshots.path.write_bytes(data)
    manager = made(KINDS[number])
    with bounded(SECONDS, MEMORY):
        try:
            manager.load(snapshots.path)
        except SnapshotError:
            assert everything(manager) == snapshots.of[number].new
        manager.check()
        if manager.block_pool.eviction is not None:
            lists_agree(manager.block_pool.eviction)
        life = Life(manager, 4)
        for _ in range(40):
            life.step()
        life.end()
        manager.block_pool.allocate(manager.block_pool.get_num_free_blocks())
        manager.check()


def damaged_bytes(draw, data):
    """Bytes of a file with some of them changed, left out or repeated."""
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, len(data)))
        end = min(len(data), begin + draw(st.sampled_from([0, 1, 1, 4, 60, 5000])))
        new = draw(
            st.one_of(st.binary(max_size=8), st.just(b""), st.just(data[begin:end] * 2), st.just(bytes(end - begin)))
        )
        data = data[:begin] + new + data[end:]
    return data


def damaged_array(draw, array):
    """An array with something wrong with it."""
    kinds = ["number"] * 6 + ["swap", "copy", "cut", "repeat", "type", "shape"]
    array, what = array.copy(), draw(st.sampled_from(kinds))
    if what == "type":
        return array.astype(draw(st.sampled_from(DTYPES)))
    if what == "shape":
        return array[..., None]
    if what == "repeat":
        return np.concatenate([array, array[:1]])
    if not array.size or array.dtype.kind not in "iu":
        return array
    if what == "cut":
        return array[: draw(st.integers(0, len(array) - 1))]
    flat, places = array.reshape(-1), st.integers(0, array.size - 1)
    first, second = draw(places), draw(places)
    if what == "number":
        limits = np.iinfo(array.dtype)
        flat[first] = min(max(draw(st.sampled_from(ODD_NUMBERS)), limits.min), limits.max)
    elif what == "swap":
        flat[[first, second]] = flat[[second, first]]
    else:
        flat[first] = flat[second]
    return array


def damaged_about(draw, text):
    """What a snapshot says about itself, changed."""
    try:
        about = json.loads(text.tobytes())
        inner = draw(st.sampled_from([about, about["hash"], about["configuration"]]))
        key = draw(st.sampled_from(sorted(inner)))
    except Exception:  # it has been damaged before
        return text[1:]
    odd = draw(st.sampled_from([None, 0, 2, "", [], {}, 1e400, "[" * 5000, True]))
    if draw(st.booleans()):
        return np.frombuffer(json.dumps(odd).encode() if odd != "[" * 5000 else odd.encode(), np.uint8)
    inner[key] = odd
    return np.frombuffer(json.dumps(about).encode(), np.uint8)


fuzzed = settings(max_examples=num_inputs(300), deadline=None, suppress_health_check=list(HealthCheck))


@fuzzed
@given(data=st.data(), number=numbers_of_kinds)
def test_a_damaged_file_is_refused(snapshots, data, number):
    check(snapshots, number, damaged_bytes(data.draw, snapshots.of[number].data))


@fuzzed
@given(data=st.data(), number=numbers_of_kinds)
def test_a_snapshot_that_somebody_made_up_breaks_nothing(snapshots, data, number):
    """Its checksum is right, but its arrays are none that a manager has written."""
    draw, arrays = data.draw, dict(snapshots.of[number].arrays)
    for _ in range(draw(st.integers(1, 3))):
        names = [*sorted(arrays), *[name for name in ("keys.numbers", "policy.members") if name in arrays] * 3]
        name, what = draw(st.sampled_from(names)), draw(st.integers(0, 19))
        if what == 0:
            del arrays[name]
        elif what == 1:
            arrays[draw(st.sampled_from(["more", "hints.pins", "order.more", "policy.more", ""]))] = arrays[name]
        elif what == 2:
            other = snapshots.of[draw(st.integers(0, len(KINDS) - 1))].arrays
            arrays[name] = other.get(name, arrays[name])
        elif name == "about":
            arrays[name] = damaged_about(draw, arrays[name])
        else:
            arrays[name] = damaged_array(draw, arrays[name])
    check(snapshots, number, packed(arrays))


def test_what_is_not_damaged_is_loaded(snapshots):
    for number, each in enumerate(snapshots.of):
        snapshots.path.write_bytes(packed(each.arrays))
        assert made(KINDS[number]).load(snapshots.path) > 0
        check(snapshots, number, each.data)
