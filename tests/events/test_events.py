"""KV events: when they are made, what they say, in which order, and their bytes on the wire."""

import logging
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from stubs import LoRARequest, MultiModalFeatureSpec, PlaceholderRange
from support.managers import admit, decode, full, make_config, make_manager, make_request, mamba, per_backend, window

from kvgpu.config.behaviour import BEHAVIOUR_0_23
from kvgpu.events.builders import EventBuilder
from kvgpu.events.messages import AllBlocksCleared, BlockRemoved, BlockStored, EventBatch, KVEventBatch, annotate
from kvgpu.hashing.block_range import BlockRange


def make_noted_manager(*specs, **options):
    """A manager that queues events."""
    return make_manager(*specs, enable_kv_cache_events=True, **options)


def low_64(block_hash):
    return int.from_bytes(block_hash[-8:], "big")


def stored(**changes):
    """An event of two blocks of 4 tokens in a full-attention group, with some fields changed."""
    fields = {
        "block_hashes": [1, 2],
        "parent_block_hash": None,
        "token_ids": list(range(8)),
        "block_size": 4,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "extra_keys": [None, None],
        "group_idx": 0,
        "kv_cache_spec_kind": "full_attention",
        "kv_cache_spec_sliding_window": None,
    }
    return BlockStored(**{**fields, **changes})


def kinds(events):
    return [type(event).__name__ for event in events]


# On the wire


def test_a_stored_event_is_an_array_of_twelve():
    wire = msgspec.msgpack.decode(msgspec.msgpack.encode(stored(parent_block_hash=7)))
    expected = ["BlockStored", [1, 2], 7, [0, 1, 2, 3, 4, 5, 6, 7], 4, None, "GPU", None]
    assert wire == [*expected, [None, None], 0, "full_attention", None]


def test_what_an_event_does_not_know_is_written_as_none():
    event = BlockStored([], None, [], 4, None, None, None)
    wire = msgspec.msgpack.decode(msgspec.msgpack.encode(event))
    assert wire == ["BlockStored", [], None, [], 4, None, None, None, None, None, None, None]


@pytest.mark.parametrize(
    ("event", "wire"),
    [
        (BlockRemoved([1], "GPU", 0), b"\x94\xacBlockRemoved\x91\x01\xa3GPU\x00"),
        (BlockRemoved([b"\xff"], None), b"\x94\xacBlockRemoved\x91\xc4\x01\xff\xc0\xc0"),
        (AllBlocksCleared(), b"\x91\xb0AllBlocksCleared"),
        (EventBatch(1.0, []), b"\x93\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00\x90\xc0"),
        (
            KVEventBatch(0.0, [AllBlocksCleared()], 3),
            b"\x93\xcb\x00\x00\x00\x00\x00\x00\x00\x00\x91\x91\xb0AllBlocksCleared\x03",
        ),
    ],
    ids=["removed", "removed, bytes", "cleared", "empty batch", "batch"],
)
def test_the_bytes_of_an_event(event, wire):
    assert msgspec.msgpack.encode(event) == wire


def test_a_batch_is_read_back_with_the_types_of_its_events():
    batch = KVEventBatch(1.5, [stored(), BlockRemoved([1], "GPU", 0), AllBlocksCleared()], 0)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(batch), type=KVEventBatch) == batch


def test_equal_events_hash_alike():
    assert hash(stored()) == hash(stored())
    assert len({stored(), stored(), BlockRemoved([1], "GPU", 0), BlockRemoved([1], "GPU", 1)}) == 3


# What is stored


@per_backend
def test_all_blocks_of_one_call_are_one_event(backend):
    manager = make_noted_manager(full(4), backend=backend)
    request = make_request("a", 10, 4)
    admit(manager, request)
    hashes = [low_64(block_hash) for block_hash in request.block_hashes]
    assert manager.take_events() == [stored(block_hashes=hashes)]


def test_hashes_are_bytes_where_the_environment_says_so(monkeypatch):
    monkeypatch.setenv("VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES", "0")
    manager = make_noted_manager(full(4))
    request = make_request("a", 8, 4)
    admit(manager, request)
    decode(manager, request, 4)
    events = manager.take_events()
    assert events[0].block_hashes == request.block_hashes[:2]
    assert events[1].parent_block_hash == request.block_hashes[1]


@per_backend
def test_a_later_event_names_the_block_before_as_its_parent(backend):
    manager = make_noted_manager(full(4), backend=backend)
    request = make_request("a", 8, 4)
    admit(manager, request)
    decode(manager, request, 5)
    first, second = (low_64(block_hash) for block_hash in request.block_hashes[1:3])
    assert manager.take_events()[1:] == [
        stored(block_hashes=[second], parent_block_hash=first, token_ids=[7] * 4, extra_keys=[None])
    ]


@per_backend
def test_blocks_that_hit_are_not_stored_again(backend):
    manager = make_noted_manager(full(4), backend=backend)
    admit(manager, make_request("a", 8, 4))
    manager.take_events()
    admit(manager, make_request("b", 9, 4))
    assert manager.take_events() == []


def test_nothing_is_stored_before_a_block_is_full():
    manager = make_noted_manager(full(4))
    admit(manager, make_request("a", 3, 4))
    assert manager.take_events() == []


def test_an_adapter_is_named_by_id_and_name():
    manager = make_noted_manager(full(4))
    admit(manager, make_request("a", 8, 4, lora_request=LoRARequest("poet", 42)))
    (event,) = manager.take_events()
    assert (event.lora_id, event.lora_name) == (42, "poet")
    assert event.extra_keys == [("poet",), ("poet",)]


def test_extra_keys_are_those_of_each_block():
    image = MultiModalFeatureSpec(None, "image", "cat", PlaceholderRange(6, 4))
    manager = make_noted_manager(full(4))
    admit(manager, make_request("a", 16, 4, mm_features=[image], cache_salt="s"))
    (event,) = manager.take_events()
    assert event.extra_keys == [("s",), (("cat", 2),), (("cat", -2),), None]


@per_backend
def test_tokens_cover_the_range_even_where_blocks_are_not_kept(backend):
    manager = make_noted_manager(full(16), window(4, 4), backend=backend)
    request = make_request("a", 32, 4)
    admit(manager, request)
    event = manager.take_events()[1]
    hashes = [low_64(request.block_hashes[i]) for i in (3, 7)]
    assert (event.block_hashes, event.token_ids) == (hashes, list(range(32)))
    assert event.extra_keys == [None, None]


@per_backend
def test_an_event_is_sent_even_if_no_block_is_kept(backend, monkeypatch):
    """Its parent is the block before, although that was not kept either."""
    monkeypatch.setenv("VLLM_PREFIX_CACHE_RETENTION_INTERVAL", "0")
    manager = make_noted_manager(window(4, 4), backend=backend)
    request = make_request("a", 40, 4)
    manager.allocate_slots(request, 8)
    request.num_computed_tokens = 8
    manager.allocate_slots(request, 12)
    events = manager.take_events()
    assert [event.block_hashes for event in events] == [[], []]
    assert [event.extra_keys for event in events] == [None, None]
    parents = [None, low_64(request.block_hashes[1])]
    assert [event.parent_block_hash for event in events] == parents
    assert [event.token_ids for event in events] == [list(range(8)), list(range(8, 20))]


@per_backend
def test_a_block_of_several_hash_blocks_is_known_by_the_last(backend):
    manager = make_noted_manager(full(8), window(4, 4), backend=backend)
    request = make_request("a", 16, 4)
    admit(manager, request)
    events = manager.take_events()
    hashes = [low_64(block_hash) for block_hash in request.block_hashes]
    assert [event.block_hashes for event in events] == [[hashes[1], hashes[3]]] * 2
    assert [(event.group_idx, event.block_size) for event in events] == [(0, 8), (1, 4)]


# What is removed, and the order


@per_backend
def test_blocks_are_removed_one_by_one_before_the_new_ones_are_stored(backend):
    manager = make_noted_manager(full(4), num_blocks=4, backend=backend)
    request = make_request("a", 12, 4)
    admit(manager, request)
    manager.free(request)
    first = manager.take_events()
    manager.allocate_slots(make_request("b", 12, 4), 12)
    hashes = [low_64(block_hash) for block_hash in request.block_hashes]
    removed = [BlockRemoved([block_hash], "GPU", 0) for block_hash in reversed(hashes)]
    assert manager.take_events() == [*removed, *first]


@per_backend
def test_groups_store_in_their_order(backend):
    manager = make_noted_manager(window(4, 4), full(4), mamba(4), backend=backend)
    admit(manager, make_request("a", 8, 4))
    assert [event.group_idx for event in manager.take_events()] == [0, 1, 2]


@per_backend
def test_an_evicted_block_is_removed_and_a_reset_clears_all(backend):
    manager = make_noted_manager(full(4), backend=backend)
    request = make_request("a", 8, 4)
    admit(manager, request)
    manager.free(request)
    manager.evict_blocks([2, 3])
    manager.reset_prefix_cache()
    events = manager.take_events()
    assert kinds(events) == ["BlockStored", "BlockRemoved", "AllBlocksCleared"]
    assert events[1] == BlockRemoved([low_64(request.block_hashes[1])], "GPU", 0)


def test_a_reset_that_is_refused_clears_nothing():
    manager = make_noted_manager(full(4))
    admit(manager, make_request("a", 3, 4))
    manager.reset_prefix_cache()
    assert manager.take_events() == []


def test_events_are_taken_once():
    manager = make_noted_manager(full(4))
    admit(manager, make_request("a", 8, 4))
    assert len(manager.take_events()) == 1
    assert manager.take_events() == []


def test_no_events_unless_asked_for():
    manager = make_manager(full(4))
    admit(manager, make_request("a", 8, 4))
    assert manager.take_events() == []


# Kind and window of a group


def test_stored_events_get_kind_and_window_of_their_group():
    manager = make_noted_manager(full(4), window(4, 8))
    admit(manager, make_request("a", 8, 4))
    fields = [(event.kv_cache_spec_kind, event.kv_cache_spec_sliding_window) for event in manager.take_events()]
    assert fields == [("full_attention", None), ("sliding_window", 8)]


@pytest.mark.parametrize("group", [1, -1])
def test_an_event_of_an_unknown_group_stays_as_it_is_with_a_warning(group, caplog):
    event = BlockStored([1], None, [1], 1, None, "GPU", None, group_idx=group)
    before = msgspec.structs.replace(event)
    with caplog.at_level(logging.WARNING):
        got = annotate([event], make_config(full(4)).kv_cache_groups, logging.getLogger("x"))
    assert (got, caplog.messages) == ([before], [f"Group index `{group}` not in KV cache metadata"])


def test_events_without_a_group_stay_as_they_are(caplog):
    events = [AllBlocksCleared(), BlockRemoved([1], "GPU", 9), stored(group_idx=None)]
    before = [msgspec.structs.replace(event) for event in events]
    assert annotate(events, make_config(full(4)).kv_cache_groups, logging.getLogger("x")) == before
    assert caplog.messages == []


def test_the_tokens_of_a_request_that_keeps_them_in_an_array_can_be_sent():
    own = SimpleNamespace(
        block_hashes=[bytes(32)] * 2,
        all_token_ids=np.arange(8),
        lora_request=None,
        mm_features=[],
        cache_salt=None,
        prompt_embeds=None,
    )
    event = EventBuilder(BEHAVIOUR_0_23).block_stored(own, [0, 1], BlockRange(0, 2, 4, 1, 0))
    assert event.token_ids == list(range(8))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(event))[3] == list(range(8))
