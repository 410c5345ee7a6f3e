"""Events beside those of vLLM's own pool, and read with vLLM's own types: arrays or maps, as its version has them."""

import warnings

import pytest

from kvgpu.config.behaviour import BEHAVIOUR_0_23, BEHAVIOUR_0_33, BEHAVIOURS

try:
    with warnings.catch_warnings(action="ignore"):  # of what torch and others deprecate
        import vllm
        from vllm.distributed import kv_events
except ImportError as error:
    pytest.skip(f"vLLM is not installed: no event was compared with its own ({error})", allow_module_level=True)
BEHAVIOUR = BEHAVIOURS.get(".".join(vllm.__version__.split(".")[:2]))
if BEHAVIOUR not in (BEHAVIOUR_0_23, BEHAVIOUR_0_33):
    # Of others the maps are equal, not their bytes (docs/vllm.md); tests/differential compares what is read.
    pytest.skip(f"the bytes of vLLM {vllm.__version__} are not reproduced", allow_module_level=True)

import logging

import msgspec
import torch
import zmq
from support.event_clients import Clients, number_of, publish_until_seen, request
from support.managers import full, make_config, window
from vllm.lora.request import LoRARequest
from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core import block_pool, kv_cache_utils
from vllm.v1.request import Request

from kvgpu.block_pool import BlockPool
from kvgpu.events import maps, messages
from kvgpu.publishing.publisher import ZmqEventPublisher

pytestmark = pytest.mark.filterwarnings("ignore")

SIZE = 4
NUM_BLOCKS = 100
"""More than all requests take: which blocks are reused first is no matter of events."""
TOKENS = 31
LOOKAHEADS = (0, 1, 3) if BEHAVIOUR.maps_events else (0,)
FORMAT = maps if BEHAVIOUR.maps_events else messages

per_lookahead = pytest.mark.parametrize("lookahead", LOOKAHEADS)


def image(name, first, tokens):
    return MultiModalFeatureSpec(None, "image", name, PlaceholderRange(first, tokens))


KINDS = {
    "plain": {},
    "adapter": {"lora_request": LoRARequest("poet", 42, "/poet")},
    "images": {"mm_features": [image("a", 1, 2), image("b", 4, 3), image("c", 9, 13)]},
    "salt and adapter": {"cache_salt": "s", "lora_request": LoRARequest("poet", 42, "/poet")},
    "embeddings": {"prompt_token_ids": None, "prompt_embeds": torch.arange(TOKENS * 2.0).reshape(TOKENS, 2)},
}
if BEHAVIOUR.maps_events:
    KINDS["session"] = {"session_id": "S", "cache_salt": "s"}


@pytest.fixture(autouse=True, scope="module")
def none_hash():
    kv_cache_utils.init_none_hash(sha256)


def make_request(kind, lookahead):
    """A request of vLLM's, with hashes of vLLM's."""
    lookahead_of_hasher = (lookahead,) if lookahead else ()
    given = {
        "request_id": kind,
        "prompt_token_ids": list(range(TOKENS)),
        "sampling_params": SamplingParams(max_tokens=1),
        "pooling_params": None,
        "block_hasher": kv_cache_utils.get_request_block_hasher(SIZE, sha256, *lookahead_of_hasher),
    }
    return Request(**given | KINDS[kind])


def pools(lookahead):
    """vLLM's pool and ours."""
    more = {"num_hash_lookahead_tokens": lookahead} if BEHAVIOUR.maps_events else {}
    theirs = block_pool.BlockPool(NUM_BLOCKS, True, SIZE, enable_kv_cache_events=True, **more)
    return theirs, BlockPool(NUM_BLOCKS, True, SIZE, enable_kv_cache_events=True, behaviour=BEHAVIOUR, **more)


def serve(pool, served):
    """Let a pool do one of everything that makes an event."""
    fine, coarse = pool.get_new_blocks(6), pool.get_new_blocks(3)
    pool.cache_full_blocks(served, fine, 0, 2, SIZE, 0)
    pool.cache_full_blocks(served, fine, 2, 6, SIZE, 0, [True, False, True, False])
    pool.cache_full_blocks(served, [pool.null_block, *coarse[1:]], 0, 1, 2 * SIZE, 1)
    pool.cache_full_blocks(served, [pool.null_block, *coarse[1:]], 1, 3, 2 * SIZE, 1)
    if BEHAVIOUR.maps_events:
        pool.emit_cached_block_events(served, 3, SIZE, 0)
        pool.emit_cached_block_events(served, 2, 2 * SIZE, 1)
        pool.emit_cached_block_events(served, 0, SIZE, 0)
    pool.evict_blocks({fine[0].block_id})
    pool.free_blocks([*reversed(fine), *reversed(coarse)])


def events_of(pool, lookahead):
    for kind in KINDS:
        serve(pool, make_request(kind, lookahead))
    pool.reset_prefix_cache()
    return pool.take_events()


@per_lookahead
@pytest.mark.parametrize("hashes", ["integers", "bytes"])
def test_the_bytes_of_all_events_are_vllms(lookahead, hashes, monkeypatch):
    monkeypatch.setenv("VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES", "1" if hashes == "integers" else "0")
    theirs, ours = (list(map(msgspec.msgpack.encode, events_of(pool, lookahead))) for pool in pools(lookahead))
    assert len(theirs) > 5 * len(KINDS)
    assert [msgspec.msgpack.decode(each) for each in ours] == [msgspec.msgpack.decode(each) for each in theirs]
    assert ours == theirs


@per_lookahead
def test_live_and_replayed_batches_are_read_with_vllms_types(lookahead):
    theirs, ours = (events_of(pool, lookahead) for pool in pools(lookahead))
    clients, free = Clients(), "tcp://127.0.0.1:*"
    publisher = ZmqEventPublisher(data_parallel_rank=3, endpoint=free, replay_endpoint=free)
    try:
        subscriber = clients(zmq.SUB, publisher.endpoint)
        publish_until_seen(publisher, subscriber)
        first = publisher.num_published
        publisher.publish(FORMAT.KVEventBatch(ts=1.5, events=ours))
        number = -1
        while number < first:
            _, frame, live = subscriber.recv_multipart()
            number = number_of(frame)
        asker = clients(zmq.DEALER, publisher.replay_endpoint)
        asker.send_multipart(request(first))
        _, _, replayed = asker.recv_multipart()
    finally:
        publisher.shutdown()
        clients.close()
    own = msgspec.msgpack.encode(kv_events.KVEventBatch(ts=1.5, events=theirs, data_parallel_rank=3))
    assert live == replayed == own
    read = msgspec.msgpack.decode(live, type=kv_events.KVEventBatch)
    assert read.data_parallel_rank == 3
    assert [type(event) for event in read.events] == [type(event) for event in theirs]
    assert [event.block_hashes for event in read.events[:-1]] == [event.block_hashes for event in theirs[:-1]]


def test_kind_and_window_of_a_group_are_read_with_vllms_types():
    _, ours = pools(0)
    serve(ours, make_request("plain", 0))
    events = ours.take_events()
    messages.annotate(events, make_config(full(SIZE), window(2 * SIZE, 8)).kv_cache_groups, logging.getLogger("x"))
    payload = msgspec.msgpack.encode(FORMAT.KVEventBatch(ts=0.0, events=events))
    read = msgspec.msgpack.decode(payload, type=kv_events.KVEventBatch).events
    shown = {
        (each.group_idx, each.kv_cache_spec_kind, each.kv_cache_spec_sliding_window)
        for each in read
        if isinstance(each, kv_events.BlockStored)
    }
    assert shown == {(0, "full_attention", None), (1, "sliding_window", 8)}


def test_events_of_two_workers_are_counted_together_by_vllms_aggregator():
    """It counts by hash and equality what its workers tell."""
    aggregator = kv_events.KVEventAggregator(2)
    told = []
    for _ in range(2):
        _, ours = pools(0)
        serve(ours, make_request("plain", 0))
        told.append(ours.take_events())
        aggregator.add_events(told[-1])
    assert set(aggregator.get_common_events()) == set(told[0]) == set(told[1])
