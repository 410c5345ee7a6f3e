"""The publisher of KV events, seen through sockets of a subscriber."""

import gc
import logging
import sys
import threading
import weakref
from time import monotonic

import msgspec
import pytest
import zmq
from support.event_clients import BAD, Clients, Waits, batch, live_until, publish_until_seen, replies_to, request

from kvgpu.errors import ConfigError, KVGPUError, MissingPackageError, PublisherShutDownError
from kvgpu.publishing import channel, complaints
from kvgpu.publishing.publisher import ZmqEventPublisher


@pytest.fixture
def endpoint(tmp_path):
    return f"ipc://{tmp_path}/events"


@pytest.fixture
def client():
    clients = Clients()
    yield clients
    clients.close()


@pytest.fixture
def make(endpoint):
    """Makes publishers that do not outlive the test."""
    made = []

    def publisher(**options):
        made.append(ZmqEventPublisher(**({"endpoint": endpoint} | options)))
        return made[-1]

    yield publisher
    for publisher in made:
        publisher.shutdown()


@pytest.fixture
def publisher(make, endpoint):
    return make(replay_endpoint=endpoint + "-replay", buffer_steps=3, topic="kv")


@pytest.fixture
def subscriber(client, endpoint):
    return client(zmq.SUB, endpoint)


@pytest.fixture
def busy():
    """A batch that keeps the sender busy, with the events that say so and that end it."""
    begun, done = threading.Event(), threading.Event()
    yield Waits(begun, done), begun, done
    done.set()


def test_a_message_is_topic_number_and_msgpack(publisher, subscriber):
    publish_until_seen(publisher, subscriber)
    topic, number, payload = subscriber.recv_multipart()
    assert (topic, len(number)) == (b"kv", 8)
    assert int.from_bytes(number, "big") < publisher.num_published
    assert msgspec.msgpack.decode(payload) == [-2.0, [["AllBlocksCleared"]], 0]


def test_numbers_are_counted_up(publisher, subscriber):
    publish_until_seen(publisher, subscriber)
    first = publisher.num_published
    for ts in range(5):
        publisher.publish(batch(float(ts)))
    assert live_until(subscriber, 4.0)[-5:] == [(first + ts, float(ts)) for ts in range(5)]


def test_shutdown_sends_what_is_queued(make, subscriber):
    publisher = make()
    publish_until_seen(publisher, subscriber)
    for ts in range(3000):
        publisher.publish(batch(float(ts)))
    publisher.shutdown()
    assert [ts for _, ts in live_until(subscriber, 2999.0)] == list(range(3000))
    assert publisher.num_dropped == 0


def test_the_rank_is_written_into_each_batch(make, tmp_path):
    publisher = make(data_parallel_rank=3, endpoint=f"inproc://{tmp_path}")
    sent = batch(0.0)
    publisher.publish(sent)
    publisher.shutdown()
    assert sent.data_parallel_rank == 3


def test_publishing_after_shutdown_is_an_error(publisher):
    publisher.shutdown()
    publisher.shutdown()
    with pytest.raises(ValueError, match="shut down") as raised:
        publisher.publish(batch(0.0))
    assert isinstance(raised.value, PublisherShutDownError)
    assert isinstance(raised.value, KVGPUError)


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_sent_is_dropped_and_the_rest_arrives(kind, make, subscriber):
    publisher = make()
    publish_until_seen(publisher, subscriber)
    first = publisher.num_published
    publisher.publish(batch(1.0))
    publisher.publish(BAD[kind]())
    for ts in (2.0, 3.0):
        publisher.publish(batch(ts))
    got = live_until(subscriber, 3.0)
    assert got == [(first, 1.0), (first + 2, 2.0), (first + 3, 3.0)]
    assert publisher.num_dropped == 1


def test_each_kind_of_fault_is_logged_once_in_a_while(make, caplog, monkeypatch):
    publisher = make()
    for _ in range(50):
        for kind in ("half a surrogate pair as salt", "an object as key"):
            publisher.publish(BAD[kind]())
    publisher.shutdown()
    dropped = [r.getMessage() for r in caplog.records if "not sent" in r.getMessage()]
    assert ["UnicodeEncodeError" in message for message in dropped] == [True, False]
    assert publisher.num_dropped == 100


def test_a_fault_is_logged_again_later_with_the_number_of_those_that_were_not(monkeypatch, caplog):
    now = [1000.0]
    monkeypatch.setattr(complaints, "monotonic", lambda: now[0])
    warnings = complaints.Complaints(logging.getLogger("x"))
    for _ in range(4):
        warnings.warn("kind", "It is %s", "so")
    now[0] += complaints.INTERVAL_S
    warnings.warn("kind", "It is %s", "so")
    assert [r.getMessage() for r in caplog.records] == ["It is so", "It is so (3 more since the last warning)"]


def test_a_log_that_raises_does_not_end_the_sender(make, subscriber, monkeypatch):
    def fail(*_):
        raise OSError("no space left")

    publisher = make()
    publish_until_seen(publisher, subscriber)
    monkeypatch.setattr(logging.Logger, "warning", fail)
    publisher.publish(BAD["no batch"]())
    publisher.publish(batch(1.0))
    live_until(subscriber, 1.0)


def test_a_full_queue_drops_the_oldest_and_subscribers_see_a_gap(make, subscriber, busy):
    waits, begun, done = busy
    publisher = make(max_queue_size=3)
    publish_until_seen(publisher, subscriber)
    first = publisher.num_published
    publisher.publish(waits)
    assert begun.wait(10)
    for ts in range(10):
        publisher.publish(batch(float(ts)))
    assert publisher.num_dropped == 7
    done.set()
    assert live_until(subscriber, 9.0) == [(first + 8, 7.0), (first + 9, 8.0), (first + 10, 9.0)]
    publisher.publish(batch(10.0))
    assert live_until(subscriber, 10.0) == [(first + 11, 10.0)]
    assert publisher.num_dropped == 8  # with the one that kept the sender busy


def test_a_queue_of_0_has_no_bound(make, busy):
    waits, begun, _ = busy
    publisher = make(max_queue_size=0)
    publisher.publish(waits)
    assert begun.wait(10)
    for _ in range(1000):
        publisher.publish(batch())
    assert publisher.num_dropped == 0


def test_shutdown_ends_in_time_and_counts_what_was_not_sent(make, busy):
    waits, begun, done = busy
    publisher = make()
    publisher.publish(waits)
    assert begun.wait(10)
    for _ in range(100):
        publisher.publish(batch())
    threading.Timer(0.5, done.set).start()
    start = monotonic()
    publisher.shutdown(timeout=0.1)
    assert monotonic() - start < 5
    assert publisher.num_dropped == 101


def test_several_threads_may_publish(make, subscriber):
    publisher = make()
    publish_until_seen(publisher, subscriber)
    first = publisher.num_published

    def publish(thread):
        for step in range(500):
            publisher.publish(batch(float(thread * 500 + step)))

    threads = [threading.Thread(target=publish, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    publisher.publish(batch(-1.0))
    got = live_until(subscriber, -1.0)[:-1]
    assert [number for number, _ in got] == list(range(first, first + 4000))
    times = [ts for _, ts in got]
    assert sorted(times) == list(range(4000))
    for thread in range(8):
        own = [ts for ts in times if ts // 500 == thread]
        assert own == sorted(own)


def test_a_terminated_context_frees_the_ports_and_publishing_goes_on_without_error(make, monkeypatch):
    """It is shared with others in earnest only by inproc endpoints, which have no ports."""
    context = zmq.Context()
    with monkeypatch.context() as patched:
        patched.setattr(zmq.Context, "instance", lambda: context)
        patched.setattr(channel, "SHARED", ("tcp://",))
        publisher = make(endpoint="tcp://127.0.0.1:*", replay_endpoint="tcp://127.0.0.1:*")
    terminating = threading.Thread(target=context.term, daemon=True)
    terminating.start()
    terminating.join(10)
    assert not terminating.is_alive()
    make(endpoint=publisher.endpoint, replay_endpoint=publisher.replay_endpoint)
    publisher.publish(batch())
    assert publisher.num_dropped == 1
    publisher.shutdown()


def test_inproc_subscribers_get_batches_and_replays(make, client, tmp_path):
    where = f"inproc://{tmp_path}"
    publisher = make(endpoint=where, replay_endpoint=where + "-replay")
    subscriber = client(zmq.SUB, where)
    publish_until_seen(publisher, subscriber)
    asker = client(zmq.DEALER, where + "-replay")
    asker.send_multipart(request(0))
    numbers = replies_to(asker)
    assert numbers == list(range(len(numbers)))
    assert numbers


def test_a_publisher_that_nobody_has_any_more_sends_what_it_has_and_frees_its_port(make, client):
    publisher = ZmqEventPublisher(endpoint="tcp://127.0.0.1:*", replay_endpoint="tcp://127.0.0.1:*")
    where, workers = publisher.endpoint, publisher._workers
    subscriber = client(zmq.SUB, where)
    publish_until_seen(publisher, subscriber)
    for ts in range(100):
        publisher.publish(batch(float(ts)))
    gone = weakref.ref(publisher)
    del publisher
    gc.collect()
    assert gone() is None
    assert len(live_until(subscriber, 99.0)) == 100
    for worker in workers:
        worker.join(10)
    make(endpoint=where)


def test_a_publisher_that_cannot_open_all_its_sockets_leaves_none_open(make):
    other = make(endpoint="tcp://127.0.0.1:*")
    free = make(endpoint="tcp://127.0.0.1:*")
    free.shutdown()
    with pytest.raises(ConfigError, match=r"in use"):
        make(endpoint=free.endpoint, replay_endpoint=other.endpoint)
    make(endpoint=free.endpoint)


def test_a_port_is_free_again_after_shutdown(make):
    publisher = make(endpoint="tcp://127.0.0.1:*", replay_endpoint="tcp://127.0.0.1:*")
    publisher.shutdown()
    make(endpoint=publisher.endpoint, replay_endpoint=publisher.replay_endpoint)


@pytest.mark.parametrize("size", ["buffer_steps", "hwm", "max_queue_size"])
def test_a_size_below_0_is_a_config_error(size, endpoint):
    with pytest.raises(ConfigError, match=size):
        ZmqEventPublisher(endpoint=endpoint, **{size: -1})


def test_a_mark_that_zeromq_refuses_is_a_config_error(endpoint):
    with pytest.raises(ConfigError, match="cannot open"):
        ZmqEventPublisher(endpoint=endpoint, hwm=1 << 40)


def test_a_topic_that_cannot_be_sent_is_a_config_error(endpoint):
    with pytest.raises(ConfigError, match="topic"):
        ZmqEventPublisher(endpoint=endpoint, topic="\ud800")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "zmq", None)
    with pytest.raises(MissingPackageError, match="events"):
        ZmqEventPublisher()
