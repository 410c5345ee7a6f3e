"""A replay server outlives whatever comes in, and serves those that ask rightly in between."""

import random
from collections import deque

import pytest
import zmq
from support.event_clients import Clients, replies_to, request

from kvgpu.publishing.channel import Channel
from kvgpu.publishing.replay_server import OPTIONS, ReplayServer

ROUNDS = 60
KEPT = 200


@pytest.fixture
def client():
    clients = Clients()
    yield clients
    clients.close()


def random_frame(rng):
    """Empty, of the length of a number or about it, or long."""
    return rng.randbytes(rng.choice((0, 0, 1, 7, 8, 8, 9, 255, 1000)))


def random_request(rng):
    """Mostly malformed; some ask for something, most of these for nothing that is kept."""
    if rng.random() < 0.2:
        return b"", rng.choice((rng.randrange(2 * KEPT), rng.getrandbits(64))).to_bytes(8, "big")
    return [random_frame(rng) for _ in range(rng.choice((1, 1, 2, 2, 3, 4, 50)))]


def misbehave(rng, client, endpoint):
    """A client of any kind that sends some, reads some or nothing, and stays or goes."""
    kind = rng.choice((zmq.DEALER, zmq.DEALER, zmq.REQ, zmq.ROUTER))
    options = {"RCVHWM": rng.choice((1, 1000)), "SNDTIMEO": 0}
    if rng.random() < 0.5:
        options["ROUTING_ID"] = bytes([1 + rng.randrange(255)]) + rng.randbytes(rng.randrange(254))
    rude = client(kind, endpoint, **options)
    for _ in range(rng.randrange(40)):
        try:
            rude.send_multipart(random_request(rng))
        except zmq.ZMQError:  # a REQ socket may not ask twice, a ROUTER knows no such peer
            break
    for _ in range(rng.choice((0, 0, 1, 100))):
        if not rude.poll(1):
            break
        rude.recv_multipart()
    if rng.random() < 0.5:
        rude.close(linger=rng.choice((0, 50)))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_random_frames_do_not_harm_those_that_ask_rightly(seed, transport, client, tmp_path):
    rng = random.Random(seed)
    where = f"ipc://{tmp_path}/replay" if transport == "ipc" else "tcp://127.0.0.1:*"
    channel = Channel(zmq.ROUTER, where, 0, OPTIONS, bind=True)
    kept = deque(((n.to_bytes(8, "big"), b"x" * 100) for n in range(KEPT)), maxlen=KEPT)
    server = ReplayServer(channel, kept)
    server.start()
    asker = client(zmq.DEALER, channel.endpoint)
    for _ in range(ROUNDS):
        start = rng.randrange(2 * KEPT)
        misbehave(rng, client, channel.endpoint)
        asker.send_multipart(request(start))
        misbehave(rng, client, channel.endpoint)
        assert replies_to(asker) == list(range(start, KEPT))
    assert server.is_alive()
    assert server.num_refused > ROUNDS
    client.close()
    server.stop(5)
    server.join(10)
    assert not server.is_alive()
