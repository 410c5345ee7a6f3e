"""Events of both wire formats, arrays and maps, on their way through a publisher to subscribers."""

from collections import Counter

import msgspec
import pytest
import zmq
from support.event_clients import Clients, Subscriber, live_until, number_of, publish_until_seen, request
from support.managers import make_request
from support.pools import SIZE, cache

from kvgpu.block_pool import BlockPool
from kvgpu.events import maps, messages
from kvgpu.hashing.map_keys import get_block_hash, get_group_id
from kvgpu.publishing.publisher import ZmqEventPublisher

FORMATS = {"0.23": messages, "0.33": maps}
per_behaviour = pytest.mark.parametrize("behaviour", FORMATS)


@pytest.fixture
def client():
    clients = Clients()
    yield clients
    clients.close()


@pytest.fixture
def publisher(tmp_path):
    where = f"ipc://{tmp_path}/events"
    publisher = ZmqEventPublisher(data_parallel_rank=0, endpoint=where, replay_endpoint=where + "-replay")
    yield publisher
    publisher.shutdown()


class Engine:
    """A small pool whose requests evict one another's blocks, and that publishes what happens in each step."""

    def __init__(self, behaviour, publisher):
        self.pool = BlockPool(12, True, SIZE, enable_kv_cache_events=True, behaviour=behaviour)
        self.publisher, self.format, self.steps = publisher, FORMATS[behaviour], 0

    def step(self):
        """Serve one request in two groups, and publish the batch, which is returned."""
        self.steps += 1
        served = make_request("a", [self.steps] * 4 * SIZE, SIZE)
        served.session_id = f"session {self.steps}"
        for group in range(2):
            blocks = self.pool.get_new_blocks(2)
            cache(self.pool, served, blocks, size=2 * SIZE, group=group)
            self.pool.free_blocks(blocks)
        if self.steps == 4:
            self.pool.reset_prefix_cache()
        batch = self.format.KVEventBatch(ts=float(self.steps), events=self.pool.take_events())
        self.publisher.publish(batch)
        return batch

    def cached(self):
        """What a subscriber should believe."""
        found = Counter()
        for key, entry in self.pool.cached_block_hash_to_block._cache.items():
            shown = int.from_bytes(get_block_hash(key)[-8:], "big")
            found[get_group_id(key), shown] = len(entry) if isinstance(entry, dict) else 1
        return found


@per_behaviour
def test_a_subscriber_knows_what_is_cached_though_it_came_late(behaviour, publisher, client):
    engine = Engine(behaviour, publisher)
    for _ in range(5):
        engine.step()
    subscriber = Subscriber(client, publisher)
    while subscriber.next < publisher.num_published:  # what is still queued cannot be replayed yet
        subscriber.catch_up()
    assert subscriber.replayed == 5
    assert subscriber.cached == engine.cached() != Counter()


@per_behaviour
def test_a_subscriber_fills_the_gap_that_a_lost_message_leaves(behaviour, publisher, client):
    engine = Engine(behaviour, publisher)
    subscriber = Subscriber(client, publisher)
    publish_until_seen(publisher, subscriber._live)
    subscriber.follow(publisher.num_published)
    replayed = subscriber.replayed
    for _ in range(7):
        engine.step()
    subscriber.overlook()
    subscriber.follow(publisher.num_published)
    assert subscriber.replayed > replayed
    assert subscriber.cached == engine.cached() != Counter()


@per_behaviour
def test_live_and_replayed_batches_are_read_with_their_types(behaviour, publisher, client):
    subscriber = client(zmq.SUB, publisher.endpoint)
    publish_until_seen(publisher, subscriber)
    first = publisher.num_published
    engine = Engine(behaviour, publisher)
    sent = [engine.step() for _ in range(5)]
    publisher.publish(engine.format.KVEventBatch(ts=-1.0, events=[]))
    live = {}
    while first + len(sent) not in live:
        _, number, payload = subscriber.recv_multipart()
        live[number_of(number)] = payload
    asker = client(zmq.DEALER, publisher.replay_endpoint)
    asker.send_multipart(request(first))
    for place, batch in enumerate(sent):
        _, number, replayed = asker.recv_multipart()
        assert number_of(number) == first + place
        assert replayed == live[first + place]
        read = msgspec.msgpack.decode(replayed, type=engine.format.KVEventBatch)
        assert read == batch
        assert [type(event).__module__ for event in read.events] == [engine.format.__name__] * len(batch.events)


def test_a_session_that_cannot_be_written_costs_only_its_batch(publisher, client):
    subscriber = client(zmq.SUB, publisher.endpoint)
    publish_until_seen(publisher, subscriber)
    first = publisher.num_published
    for ts, session in ((1.0, "\ud800"), (2.0, "s")):
        stored = maps.BlockStored([1], None, [1], 1, None, "GPU", None, session_id=session)
        publisher.publish(maps.KVEventBatch(ts=ts, events=[stored]))
    assert live_until(subscriber, 2.0) == [(first + 1, 2.0)]
    assert publisher.num_dropped == 1
