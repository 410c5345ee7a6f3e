"""Replays of KV events: complete for every client that reads, and no burden where one does not."""

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from time import sleep

import pytest
import zmq
from support.event_clients import (
    TIMEOUT_MS,
    Clients,
    batch,
    live_until,
    number_of,
    publish_until_seen,
    replies_to,
    request,
)

from kvgpu.publishing import replay_server, replies
from kvgpu.publishing.channel import Channel
from kvgpu.publishing.publisher import END_OF_REPLAY, ZmqEventPublisher
from kvgpu.publishing.replay_server import OPTIONS, ReplayServer

PAYLOAD = b"x" * 2000


def message(number):
    return number.to_bytes(8, "big"), PAYLOAD


@pytest.fixture
def client():
    clients = Clients()
    yield clients
    clients.close()


@pytest.fixture
def sent():
    """More than the buffers of the sockets hold for a client that does not read."""
    return deque(map(message, range(5000)), maxlen=5000)


@pytest.fixture
def endpoint(tmp_path):
    return f"ipc://{tmp_path}/replay"


@pytest.fixture
def server(sent, endpoint):
    server = ReplayServer(Channel(zmq.ROUTER, endpoint, 0, OPTIONS, bind=True), sent)
    server.start()
    yield server
    server.stop(0)
    server.join()


def stuck(client, endpoint, **options):
    """A client that has asked and reads nothing; its replies have begun."""
    socket = client(zmq.DEALER, endpoint, RCVHWM=10, **options)
    socket.send_multipart(request(0))
    assert socket.poll(TIMEOUT_MS)
    return socket


def wait_for(condition):
    for _ in range(TIMEOUT_MS // 10):
        if condition():
            return
        sleep(0.01)
    pytest.fail("it did not come true")


@pytest.mark.parametrize("wait", [0, 0.5], ids=["fast", "slow"])
def test_all_that_is_kept_arrives_and_then_an_end_marker(server, client, endpoint, wait):
    asker = client(zmq.DEALER, endpoint)
    asker.send_multipart(request(0))
    sleep(wait)
    assert replies_to(asker) == list(range(5000))


def test_messages_are_those_that_were_sent(server, client, endpoint):
    asker = client(zmq.DEALER, endpoint)
    asker.send_multipart(request(4999))
    assert asker.recv_multipart() == [b"", *message(4999)]
    assert asker.recv_multipart() == [b"", END_OF_REPLAY, b""]


@pytest.mark.parametrize(("start", "first"), [(3000, 3000), (4999, 4999), (5000, 5000), (1 << 63, 5000)])
def test_replay_starts_where_it_is_asked_to(server, client, endpoint, start, first):
    asker = client(zmq.DEALER, endpoint)
    asker.send_multipart(request(start))
    assert replies_to(asker) == list(range(first, 5000))


def test_numbers_that_were_used_up_by_nothing_are_no_hindrance(server, sent, client, endpoint):
    sent.clear()
    sent.extend(map(message, (3, 4, 7, 9)))
    asker = client(zmq.DEALER, endpoint)
    asker.send_multipart(request(5))
    assert replies_to(asker) == [7, 9]


def test_what_is_pushed_out_after_a_reply_has_begun_still_arrives(server, sent, client, endpoint):
    asker = stuck(client, endpoint)
    sent.extend(map(message, range(5000, 10000)))
    assert replies_to(asker) == list(range(5000))
    asker.send_multipart(request(0))
    assert replies_to(asker) == list(range(5000, 10000))


def test_a_client_that_reads_nothing_keeps_nobody_waiting(server, client, endpoint):
    for _ in range(5):
        stuck(client, endpoint)
    asker = client(zmq.DEALER, endpoint)
    asker.send_multipart(request(0))
    assert replies_to(asker) == list(range(5000))


def test_a_client_may_ask_again_before_it_has_its_replies(server, client, endpoint):
    asker = client(zmq.DEALER, endpoint)
    for start in (4000, 0, 4990):
        asker.send_multipart(request(start))
    assert replies_to(asker) == list(range(4000, 5000))
    assert replies_to(asker) == list(range(5000))
    assert replies_to(asker) == list(range(4990, 5000))


def test_requests_of_a_client_that_is_owed_too_many_replies_are_dropped(server, client, endpoint):
    asker = stuck(client, endpoint)
    for _ in range(5000):
        asker.send_multipart(request(0))
    wait_for(lambda: server.num_refused == 5000 + 1 - replies.MAX_REQUESTS)
    other = client(zmq.DEALER, endpoint)
    other.send_multipart(request(4990))
    assert replies_to(other) == list(range(4990, 5000))
    for _ in range(replies.MAX_REQUESTS):
        assert replies_to(asker) == list(range(5000))
    asker.send_multipart(request(4990))
    assert replies_to(asker) == list(range(4990, 5000))


def test_more_clients_than_are_served_at_a_time_wait_for_their_turn(monkeypatch, server, client, endpoint):
    monkeypatch.setattr(replay_server, "MAX_CLIENTS", 2)
    askers = [client(zmq.DEALER, endpoint) for _ in range(6)]
    for asker in askers:
        asker.send_multipart(request(0))
    with ThreadPoolExecutor(len(askers)) as readers:
        assert list(readers.map(replies_to, askers)) == [list(range(5000))] * 6


def test_clients_that_read_nothing_make_room_soon_when_others_wait(monkeypatch, server, client, endpoint):
    monkeypatch.setattr(replay_server, "MAX_CLIENTS", 2)
    monkeypatch.setattr(replay_server, "PATIENCE_WHEN_FULL_S", 0.2)
    for _ in range(2):
        stuck(client, endpoint)
    asker = client(zmq.DEALER, endpoint)
    asker.send_multipart(request(0))
    assert replies_to(asker) == list(range(5000))


def test_a_client_that_takes_nothing_for_long_is_given_up(monkeypatch, server, client, endpoint):
    stuck(client, endpoint)
    assert server.num_given_up == 0
    monkeypatch.setattr(replay_server, "PATIENCE_S", 0.2)
    wait_for(lambda: server.num_given_up == 1)


def test_a_client_that_reads_slowly_is_not_given_up(monkeypatch, server, client, endpoint):
    monkeypatch.setattr(replay_server, "PATIENCE_S", 0.5)
    asker = client(zmq.DEALER, endpoint, RCVHWM=10)
    asker.send_multipart(request(3000))
    got = []
    while not got or got[-1] != -1:
        got.append(number_of(asker.recv_multipart()[1]))
        sleep(0.0005)
    assert got == [*range(3000, 5000), -1]


def test_a_client_that_vanishes_is_given_up(server, client, endpoint):
    stuck(client, endpoint).close(linger=0)
    wait_for(lambda: server.num_given_up == 1)
    asker = client(zmq.DEALER, endpoint)
    asker.send_multipart(request(4990))
    assert replies_to(asker) == list(range(4990, 5000))


@pytest.mark.parametrize(
    "frames",
    [(b"",), (b"", b"short"), (b"", b"nine bytes"), (b"", b""), (b"", bytes(8), b""), (bytes(8),), (b"",) * 10_000],
)
def test_a_malformed_request_is_dropped(server, client, endpoint, frames):
    asker = client(zmq.DEALER, endpoint)
    asker.send_multipart(frames)
    asker.send_multipart(request(4990))
    assert replies_to(asker) == list(range(4990, 5000))
    assert server.num_refused == 1


def test_a_frame_that_is_larger_than_any_request_ends_the_connection(server, client, endpoint):
    rude = client(zmq.DEALER, endpoint)
    rude.send_multipart((b"", bytes(1 << 20)))
    asker = client(zmq.DEALER, endpoint)
    asker.send_multipart(request(4990))
    assert replies_to(asker) == list(range(4990, 5000))
    assert server.num_refused == 0


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(), zmq.ZMQError(zmq.EINVAL)])
def test_an_error_while_a_request_is_read_is_survived(monkeypatch, server, client, endpoint, error):
    real, failed = ReplayServer._receive, threading.Event()

    def once(self):
        if not failed.is_set():
            failed.set()
            raise error
        return real(self)

    monkeypatch.setattr(ReplayServer, "_receive", once)
    asker = client(zmq.DEALER, endpoint)
    asker.send_multipart(request(0))
    assert replies_to(asker) == list(range(5000))
    assert failed.is_set()


def test_an_error_while_one_client_is_answered_does_not_harm_the_others(monkeypatch, server, client, endpoint):
    first = stuck(client, endpoint)
    real, failed = replies.Replies.send, threading.Event()

    def once(self, *arguments):
        if not failed.is_set():
            failed.set()
            raise MemoryError
        return real(self, *arguments)

    monkeypatch.setattr(replies.Replies, "send", once)
    assert failed.wait(10)
    asker = client(zmq.DEALER, endpoint)
    for socket in (asker, first):
        socket.send_multipart(request(0))
    assert replies_to(asker) == list(range(5000))
    assert server.num_given_up == 1


def test_replies_that_were_begun_are_ended_when_the_server_is_stopped(server, client, endpoint):
    asker = stuck(client, endpoint)
    server.stop(10)
    assert replies_to(asker) == list(range(5000))
    server.join(10)
    assert not server.is_alive()


def test_a_client_that_reads_nothing_does_not_keep_the_server_from_ending(monkeypatch, server, client, endpoint):
    monkeypatch.setattr(replay_server, "STALL_S", 0.2)
    stuck(client, endpoint)
    server.stop(60)
    server.join(10)
    assert not server.is_alive()
    assert server.num_given_up == 1


def test_live_events_go_on_beside_a_client_that_asks_and_reads_nothing(tmp_path, client):
    live, replay = f"ipc://{tmp_path}/live", f"ipc://{tmp_path}/replay"
    publisher = ZmqEventPublisher(endpoint=live, replay_endpoint=replay)
    subscriber = client(zmq.SUB, live)
    publish_until_seen(publisher, subscriber)
    for ts in range(3000):
        publisher.publish(batch(float(ts)))
    live_until(subscriber, 2999.0)
    rude = stuck(client, replay)
    for _ in range(20_000):
        rude.send_multipart(request(0))
    first = publisher.num_published
    for ts in range(3000, 6000):
        publisher.publish(batch(float(ts)))
    assert [n for n, _ in live_until(subscriber, 5999.0)] == list(range(first, first + 3000))
    asker = client(zmq.DEALER, replay)
    asker.send_multipart(request(0))
    assert replies_to(asker) == list(range(publisher.num_published))
    publisher.shutdown()
