"""The publisher of KV events, seen through sockets of a subscriber."""

import msgspec
import pytest
import zmq

from kvgpu.errors import ConfigError
from kvgpu.events import AllBlocksCleared, KVEventBatch
from kvgpu.publisher import END_OF_REPLAY, ZmqEventPublisher, is_bound, offset_endpoint

TIMEOUT_MS = 10_000


@pytest.fixture
def endpoint(tmp_path):
    return f"ipc://{tmp_path}/events"


@pytest.fixture
def client():
    """Makes sockets that do not outlive the test."""
    sockets = []

    def connect(kind, endpoint):
        socket = zmq.Context.instance().socket(kind)
        socket.RCVTIMEO = TIMEOUT_MS
        socket.connect(endpoint)
        sockets.append(socket)
        return socket

    yield connect
    for socket in sockets:
        socket.close(linger=0)


@pytest.fixture
def publisher(endpoint):
    publisher = ZmqEventPublisher(
        endpoint=endpoint, replay_endpoint=endpoint + "-replay", buffer_steps=3, topic="kv"
    )
    yield publisher
    publisher.shutdown()


def batch(ts):
    return KVEventBatch(ts=ts, events=[AllBlocksCleared()])


def ask_for(socket, start):
    """All replies to a replay request."""
    socket.send_multipart((b"", start.to_bytes(8, "big")))
    replies = []
    while not replies or replies[-1][1] != END_OF_REPLAY:
        replies.append(socket.recv_multipart())
    return replies


def publish_until_seen(publisher, subscriber):
    """Subscriptions take effect some time after `connect`: repeat until one message arrives."""
    for ts in range(10_000):
        publisher.publish(batch(float(ts)))
        if subscriber.poll(20):
            return
    pytest.fail("no message arrived")


def test_a_message_is_topic_number_and_msgpack(publisher, endpoint, client):
    subscriber = client(zmq.SUB, endpoint)
    subscriber.subscribe(b"kv")
    publish_until_seen(publisher, subscriber)
    topic, number, payload = subscriber.recv_multipart()
    ts = float(int.from_bytes(number, "big"))
    assert (topic, len(number)) == (b"kv", 8)
    assert msgspec.msgpack.decode(payload) == [ts, [["AllBlocksCleared"]], 0]


def test_replay_gives_the_buffered_batches_and_an_end_marker(publisher, endpoint, client):
    for ts in range(5):
        publisher.publish(batch(float(ts)))
    replies = []
    asker = client(zmq.DEALER, endpoint + "-replay")
    while len(replies) < 2 or replies[-2][1] != (4).to_bytes(8, "big"):
        replies = ask_for(asker, 0)
    numbers = [int.from_bytes(number, "big", signed=True) for _, number, _ in replies]
    assert numbers == [2, 3, 4, -1]
    assert {empty for empty, _, _ in replies} == {b""}
    assert [msgspec.msgpack.decode(p)[0] for _, _, p in replies[:-1]] == [2.0, 3.0, 4.0]
    assert replies[-1][2] == b""


def test_replay_starts_where_it_is_asked_to(publisher, endpoint, client):
    for ts in range(3):
        publisher.publish(batch(float(ts)))
    replies = []
    asker = client(zmq.DEALER, endpoint + "-replay")
    while len(replies) < 2:
        replies = ask_for(asker, 2)
    assert [int.from_bytes(number, "big", signed=True) for _, number, _ in replies] == [2, -1]


def test_a_malformed_replay_request_is_dropped(publisher, endpoint, client):
    asker = client(zmq.DEALER, endpoint + "-replay")
    asker.send_multipart((b"", b"short"))
    assert ask_for(asker, 0)[-1][1] == END_OF_REPLAY


def test_shutdown_sends_what_is_queued(endpoint, client):
    publisher = ZmqEventPublisher(endpoint=endpoint)
    subscriber = client(zmq.SUB, endpoint)
    subscriber.subscribe(b"")
    publish_until_seen(publisher, subscriber)
    for _ in range(100):
        publisher.publish(batch(-1.0))
    publisher.shutdown()
    got = 0
    while got < 100:
        got += msgspec.msgpack.decode(subscriber.recv_multipart()[2])[0] == -1.0


def test_the_rank_is_written_into_each_batch(tmp_path):
    publisher = ZmqEventPublisher(data_parallel_rank=3, endpoint=f"inproc://{tmp_path}")
    sent = batch(0.0)
    publisher.publish(sent)
    publisher.shutdown()
    assert sent.data_parallel_rank == 3


def test_publishing_after_shutdown_is_an_error(endpoint):
    publisher = ZmqEventPublisher(endpoint=endpoint)
    publisher.shutdown()
    publisher.shutdown()
    with pytest.raises(ValueError, match="shut down"):
        publisher.publish(batch(0.0))


def test_an_endpoint_that_cannot_be_opened_is_a_config_error():
    with pytest.raises(ConfigError, match="nowhere://here"):
        ZmqEventPublisher(endpoint="nowhere://here")


@pytest.mark.parametrize(
    ("endpoint", "rank", "expected"),
    [
        ("tcp://*:5557", 0, "tcp://*:5557"),
        ("tcp://*:5557", 2, "tcp://*:5559"),
        ("inproc://cache", 1, "inproc://cache_dp1"),
        ("ipc:///tmp/cache", 0, "ipc:///tmp/cache"),
    ],
)
def test_each_rank_has_an_endpoint_of_its_own(endpoint, rank, expected):
    assert offset_endpoint(endpoint, rank) == expected


@pytest.mark.parametrize("endpoint", ["ipc:///tmp/cache", "tcp://host"])
def test_an_endpoint_without_port_cannot_be_offset(endpoint):
    with pytest.raises(ConfigError, match="rank 1"):
        offset_endpoint(endpoint, 1)


@pytest.mark.parametrize(
    ("endpoint", "bound"),
    [
        ("tcp://*:5557", True),
        ("tcp://[::]:5557", True),
        ("ipc:///tmp/cache", True),
        ("inproc://cache", True),
        ("tcp://router:5557", False),
    ],
)
def test_wildcards_and_local_transports_are_bound(endpoint, bound):
    assert is_bound(endpoint) is bound
