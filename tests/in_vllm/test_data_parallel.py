"""Two engines on one host, as with data parallelism: each publishes its own events, at its own port, with its rank."""

import socket
from contextlib import closing

import pytest
from in_vllm.oracle import require_vllm

require_vllm()

import msgspec
import zmq
from in_vllm import engines
from in_vllm.engines import Options, make_request
from vllm.config.kv_events import KVEventsConfig
from vllm.distributed.kv_events import BlockStored, KVEventBatch
from vllm.v1.core.sched import scheduler as scheduler_module

from kvgpu.manager import KVCacheManager
from kvgpu.vllm import Scheduler
from kvgpu.vllm.manager import make_manager

pytestmark = pytest.mark.filterwarnings("ignore")
PATIENCE_MS = 20_000


def two_free_ports():
    """A port that is free, and so is the next one."""
    while True:
        with closing(socket.socket()) as first, closing(socket.socket()) as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


@pytest.fixture
def port():
    return two_free_ports()


@pytest.fixture
def schedulers(port, monkeypatch):
    """Schedulers of ranks 0 and 1."""
    monkeypatch.delenv("KVGPU_VLLM", raising=False)
    monkeypatch.setattr(scheduler_module, "KVCacheManager", make_manager)
    made = []
    for rank in range(2):

        def prepare(config, rank=rank):
            config.parallel_config.data_parallel_index = rank
            config.kv_events_config = KVEventsConfig(
                enable_kv_cache_events=True, publisher="zmq", endpoint=f"tcp://*:{port}", topic="kv"
            )

        made.append(engines.make_scheduler(Options(scheduler=Scheduler, prepare=prepare)))
    yield made
    for scheduler in made:
        scheduler.shutdown()


@pytest.fixture
def subscribers(schedulers, port):
    """One for each rank, which hear everything from now on."""
    with zmq.Context() as context:
        made = []
        for rank in range(2):
            subscriber = context.socket(zmq.SUB)
            subscriber.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
            subscriber.setsockopt(zmq.LINGER, 0)
            subscriber.connect(f"tcp://127.0.0.1:{port + rank}")
            subscriber.subscribe("kv")
            made.append(subscriber)
        yield made
        for subscriber in made:
            subscriber.close()


def hear(scheduler, subscriber, tokens):
    """Compute prompts until the subscriber, which may still be connecting, hears of one; what it hears."""
    subscriber.setsockopt(zmq.RCVTIMEO, 200)
    for number in range(PATIENCE_MS // 200):
        request = make_request(f"r{number}", [number, *tokens], max_tokens=1)
        scheduler.add_request(request)
        output = scheduler.schedule()
        scheduler.update_from_output(output, engines.output_of(scheduler, output, 0))
        try:
            _, _, payload = subscriber.recv_multipart()
        except zmq.Again:
            continue
        return msgspec.msgpack.decode(payload, type=KVEventBatch)
    raise AssertionError("nothing was published")


def test_each_engine_publishes_its_own_blocks_at_its_own_port_with_its_rank(schedulers, subscribers):
    for rank, (scheduler, subscriber) in enumerate(zip(schedulers, subscribers, strict=True)):
        assert type(scheduler.kv_cache_manager) is KVCacheManager
        batch = hear(scheduler, subscriber, [rank] * 40)
        assert batch.data_parallel_rank == rank
        (stored,) = batch.events
        assert isinstance(stored, BlockStored)
        assert stored.token_ids[1:] == [rank] * 31
