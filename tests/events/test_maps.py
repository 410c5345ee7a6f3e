"""Events of behaviour 0.33: maps that leave out what they do not know, and say more than arrays do."""

import logging
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from stubs import LoRARequest, MultiModalFeatureSpec, PlaceholderRange
from support.managers import full, make_config, make_request, per_backend, window
from support.pools import NUM_BLOCKS, SIZE, cache, ids

from kvgpu.block_pool import BlockPool
from kvgpu.config.behaviour import BEHAVIOUR_0_23
from kvgpu.errors import ArgumentError, ArgumentTypeError, ConfigError, UnknownNameError
from kvgpu.events import maps, messages
from kvgpu.events.maps import AllBlocksCleared, BlockRemoved, BlockStored, KVEventBatch


def make_pool(**options):
    return BlockPool(NUM_BLOCKS, True, SIZE, enable_kv_cache_events=True, **{"behaviour": "0.33"} | options)


@pytest.fixture
def pool():
    return make_pool()


def make(tokens=6 * SIZE, **attributes):
    """A request, with attributes that only engines set."""
    session = attributes.pop("session_id", None)
    request = make_request("a", tokens, SIZE, **attributes)
    if session is not None:
        request.session_id = session
    return request


def wire(event):
    """What a client that knows no types reads."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(event))


def low_64(block_hash):
    return int.from_bytes(block_hash[-8:], "big")


# On the wire


def test_a_stored_event_is_a_map_without_what_it_does_not_know(pool):
    request = make()
    cache(pool, request, pool.get_new_blocks(2))
    (event,) = pool.take_events()
    assert wire(event) == {
        "type": "BlockStored",
        "block_hashes": [low_64(each) for each in request.block_hashes[:2]],
        "parent_block_hash": None,
        "token_ids": list(range(2 * SIZE)),
        "block_size": SIZE,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "extra_keys": [None, None],
        "group_idx": 0,
    }


@pytest.mark.parametrize(
    ("event", "written"),
    [
        (
            BlockRemoved([1], "GPU", 0),
            b"\x84\xa4type\xacBlockRemoved\xacblock_hashes\x91\x01\xa6medium\xa3GPU\xa9group_idx\x00",
        ),
        (BlockRemoved([b"\xff"], None), b"\x83\xa4type\xacBlockRemoved\xacblock_hashes\x91\xc4\x01\xff\xa6medium\xc0"),
        (AllBlocksCleared(), b"\x81\xa4type\xb0AllBlocksCleared"),
        (
            KVEventBatch(0.0, [AllBlocksCleared()], 3),
            b"\x93\xcb" + bytes(8) + b"\x91\x81\xa4type\xb0AllBlocksCleared\x03",
        ),
    ],
    ids=["removed", "removed, bytes", "cleared", "batch, an array still"],
)
def test_the_bytes_of_an_event(event, written):
    assert msgspec.msgpack.encode(event) == written


def test_fields_that_only_maps_have_are_read_back():
    stored = BlockStored([1], None, [1], 1, None, "GPU", None, locality="LOCAL", ownership="tier", session_id="s")
    removed = BlockRemoved([1], "GPU", 0, "REMOTE", "tier")
    batch = KVEventBatch(1.5, [stored, removed, AllBlocksCleared()], 0)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(batch), type=KVEventBatch) == batch


@pytest.mark.parametrize("name", ["BlockStored", "BlockRemoved", "AllBlocksCleared"])
def test_a_map_begins_with_the_fields_of_the_array_in_their_order(name):
    mine, theirs = (getattr(module, name).__struct_fields__ for module in (maps, messages))
    assert mine[: len(theirs)] == theirs


def test_equal_events_hash_alike_and_no_map_equals_an_array():
    fields = ([1], "GPU", 0)
    assert len({BlockRemoved(*fields), BlockRemoved(*fields)}) == 1
    assert BlockRemoved(*fields) != messages.BlockRemoved(*fields)


# What a pool says


@per_backend
def test_all_events_of_a_pool_are_maps(backend):
    pool = make_pool(backend=backend)
    blocks = pool.get_new_blocks(2)
    cache(pool, make(), blocks, group=2)
    pool.evict_blocks(ids(blocks[:1]))
    pool.free_blocks(blocks)
    pool.reset_prefix_cache()
    events = pool.take_events()
    assert [wire(event)["type"] for event in events] == ["BlockStored", "BlockRemoved", "AllBlocksCleared"]
    assert wire(events[1])["group_idx"] == 2


def test_the_session_of_a_request_is_said(pool):
    cache(pool, make(session_id="S"), pool.get_new_blocks(1))
    (event,) = pool.take_events()
    assert wire(event)["session_id"] == "S"


def test_extra_keys_have_no_tags(pool):
    image = MultiModalFeatureSpec(None, "image", "cat", PlaceholderRange(1, 2))
    request = make(mm_features=[image], cache_salt="s", lora_request=LoRARequest("poet", 42))
    cache(pool, request, pool.get_new_blocks(2))
    (event,) = pool.take_events()
    assert event.extra_keys == [("poet", ("cat", 1), "s"), ("poet",)]


def test_a_block_of_several_hashes_and_its_parent_show_the_last(pool, monkeypatch):
    monkeypatch.setenv("VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES", "0")
    request = make()
    cache(pool, request, pool.get_new_blocks(3), 1, 3, 2 * SIZE)
    (event,) = pool.take_events()
    assert event.block_hashes == [request.block_hashes[3], request.block_hashes[5]]
    assert event.parent_block_hash == request.block_hashes[1]


def test_one_switch_alone_makes_maps_of_joined_hashes(monkeypatch):
    monkeypatch.setenv("VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES", "0")
    pool = make_pool(behaviour=replace(BEHAVIOUR_0_23, maps_events=True))
    request = make()
    cache(pool, request, pool.get_new_blocks(1), 0, 1, 2 * SIZE)
    (event,) = pool.take_events()
    assert wire(event)["block_hashes"] == [b"".join(request.block_hashes[:2])]


def test_kind_and_window_of_a_group_are_written_into_maps(pool, caplog):
    request = make()
    for group in range(3):
        cache(pool, request, pool.get_new_blocks(1), group=group)
    events = pool.take_events()
    with caplog.at_level(logging.WARNING):
        messages.annotate(events, make_config(full(SIZE), window(SIZE, 8)).kv_cache_groups, logging.getLogger("x"))
    names = ("kv_cache_spec_kind", "kv_cache_spec_sliding_window")
    assert [[wire(event).get(name) for name in names] for event in events] == [
        ["full_attention", None],
        ["sliding_window", 8],
        [None, None],
    ]
    assert caplog.messages == ["Group index `2` not in KV cache metadata"]


# Look-ahead


def test_the_tokens_after_each_stored_block_are_said():
    pool = make_pool(num_hash_lookahead_tokens=2)
    blocks = [pool.get_new_blocks(1)[0], pool.null_block, *pool.get_new_blocks(1)]
    cache(pool, make(), blocks)
    (event,) = pool.take_events()
    assert event.lookahead_token_ids == [[SIZE, SIZE + 1], [3 * SIZE, 3 * SIZE + 1]]


def test_no_stored_block_has_no_tokens_after_it():
    pool = make_pool(num_hash_lookahead_tokens=2)
    cache(pool, make(), [pool.null_block])
    (event,) = pool.take_events()
    assert (event.block_hashes, event.extra_keys, event.lookahead_token_ids) == ([], None, [])


def test_extra_keys_cover_the_tokens_after_a_block():
    pool = make_pool(num_hash_lookahead_tokens=2)
    # The first is the look-ahead of block 0 itself, the second begins there and ends in block 2.
    spans = {"a": (SIZE, 2), "b": (2 * SIZE + 1, SIZE)}
    items = [MultiModalFeatureSpec(None, "image", name, PlaceholderRange(*span)) for name, span in spans.items()]
    cache(pool, make(mm_features=items, cache_salt="s"), pool.get_new_blocks(4))
    (event,) = pool.take_events()
    assert event.extra_keys == [(("a", SIZE), "s"), (("a", 0), ("b", SIZE + 1)), (("b", 1),), (("b", 1 - SIZE),)]


def test_tokens_in_an_array_can_be_sent():
    pool = make_pool(num_hash_lookahead_tokens=1)
    request = make()
    blocks = pool.get_new_blocks(1)
    own = type("Own", (), {"block_hashes": request.block_hashes, "all_token_ids": np.arange(6 * SIZE)})()
    cache(pool, own, blocks)
    (event,) = pool.take_events()
    assert wire(event)["lookahead_token_ids"] == [[SIZE]]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"behaviour": "0.23", "num_hash_lookahead_tokens": 1}, ConfigError),
        ({"num_hash_lookahead_tokens": -1}, ConfigError),
        ({"num_hash_lookahead_tokens": 1.5}, ConfigError),
        ({"behaviour": "0.9"}, UnknownNameError),
        ({"behaviour": None}, ArgumentTypeError),
    ],
)
def test_what_no_pool_can_do_is_refused(options, error):
    with pytest.raises(error):
        make_pool(**options)


# Reports of hits


@pytest.mark.parametrize("behaviour", ["0.23", "0.33"])
def test_hits_are_reported_as_if_they_had_just_been_stored_each_time_again(behaviour):
    pool = make_pool(behaviour=behaviour)
    request = make(cache_salt="s")
    cache(pool, request, pool.get_new_blocks(2), size=2 * SIZE, group=1)
    stored = pool.take_events()
    for _ in range(2):
        pool.emit_cached_block_events(request, 2, 2 * SIZE, 1)
    assert pool.take_events() == stored * 2


def test_a_report_counts_null_blocks_and_has_no_parent(pool):
    request = make()
    pool.emit_cached_block_events(request, 3, SIZE, 0)
    (event,) = pool.take_events()
    assert event.block_hashes == [low_64(each) for each in request.block_hashes[:3]]
    assert (event.parent_block_hash, event.token_ids) == (None, list(range(3 * SIZE)))
    assert event.extra_keys == [None] * 3


def test_nothing_is_reported_without_hits_or_with_events_off(pool):
    pool.emit_cached_block_events(make(), 0, SIZE, 0)
    assert pool.take_events() == []
    pool.enable_kv_cache_events = False
    pool.emit_cached_block_events(make(), 2, SIZE, 0)
    assert pool.kv_event_queue == []


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((7, SIZE, 0), ArgumentError),
        ((-1, SIZE, 0), ArgumentError),
        ((1, SIZE + 1, 0), ArgumentError),
        ((1, SIZE, -1), ArgumentError),
        (("1", SIZE, 0), ArgumentTypeError),
    ],
)
def test_a_report_that_cannot_be_made_is_refused(pool, arguments, error):
    with pytest.raises(error):
        pool.emit_cached_block_events(make(), *arguments)
    assert pool.kv_event_queue == []


def test_what_a_request_raises_while_it_is_reported_comes_out(pool):
    request = make()
    broken = type("Broken", (), {"block_hashes": request.block_hashes})()
    with pytest.raises(AttributeError):
        pool.emit_cached_block_events(broken, 1, SIZE, 0)
    assert pool.kv_event_queue == []
    pool.emit_cached_block_events(request, 1, SIZE, 0)
    assert len(pool.take_events()) == 1
