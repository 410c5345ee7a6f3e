"""Batches, good and bad, and clients of an event publisher."""

from collections import Counter

import msgspec
import numpy as np
import pytest
import zmq

from kvgpu.events.messages import AllBlocksCleared, BlockStored, KVEventBatch
from kvgpu.publishing.publisher import END_OF_REPLAY

TIMEOUT_MS = 10_000


def batch(ts=0.0, tokens=(), extra_key=None):
    """A batch of one event: everything was cleared, or blocks of these tokens were stored."""
    if not tokens and extra_key is None:
        return KVEventBatch(ts=ts, events=[AllBlocksCleared()])
    stored = BlockStored([1], None, list(tokens), 4, None, "GPU", None, [extra_key])
    return KVEventBatch(ts=ts, events=[stored])


class Raises:
    """Something published that raises what it was given when the rank is written into it."""

    def __init__(self, error):
        object.__setattr__(self, "error", error)

    def __setattr__(self, name, value):
        raise self.error


class Waits:
    """Something published that keeps the sender busy until an event is set, and cannot be sent."""

    def __init__(self, begun, done):
        self.begun, self.done = begun, done

    def __setattr__(self, name, value):
        if name == "data_parallel_rank":
            self.begun.set()
            self.done.wait(TIMEOUT_MS / 1000)
        object.__setattr__(self, name, value)


def nested(depth):
    value = ()
    for _ in range(depth):
        value = (value,)
    return value


BAD = {
    "half a surrogate pair as salt": lambda: batch(extra_key=("\ud800",)),
    "a token beyond 64 bits": lambda: batch(tokens=[1, 1 << 64]),
    "a token below 64 bits": lambda: batch(tokens=[-(1 << 63) - 1]),
    "NumPy numbers": lambda: batch(tokens=list(np.arange(3))),
    "an array as key": lambda: batch(extra_key=(np.arange(3),)),
    "an object as key": lambda: batch(extra_key=(object(),)),
    "endless nesting": lambda: batch(extra_key=nested(100_000)),
    "no batch": lambda: object(),
    "nothing": lambda: None,
    "an error": lambda: Raises(ValueError("x")),
    "an error of memory": lambda: Raises(MemoryError()),
    "an exit": lambda: Raises(SystemExit()),
    "an interrupt": lambda: Raises(KeyboardInterrupt()),
    "an error as of a terminated context": lambda: Raises(zmq.ContextTerminated()),
}
"""Makers of what cannot be sent."""


def number_of(frame):
    return int.from_bytes(frame, "big", signed=True)


def request(start):
    """Frames of a replay request."""
    return b"", start.to_bytes(8, "big")


def replies_to(socket):
    """Numbers of the replies until the end marker, which is left out."""
    numbers = []
    while True:
        empty, number, payload = socket.recv_multipart()
        assert empty == b""
        if number == END_OF_REPLAY:
            assert payload == b""
            return numbers
        numbers.append(number_of(number))


def publish_until_seen(publisher, subscriber):
    """Subscriptions take effect some time after `connect`: repeat until one message arrives."""
    for _ in range(1000):
        publisher.publish(batch(-2.0))
        if subscriber.poll(20):
            return
    pytest.fail("no message arrived")


def live_until(subscriber, ts):
    """Numbers and times of live batches until one of this time has come, which is included.

    Those of `publish_until_seen` are left out.
    """
    got = []
    while not got or got[-1][1] != ts:
        _, number, payload = subscriber.recv_multipart()
        got.append((number_of(number), msgspec.msgpack.decode(payload)[0]))
        if got[-1][1] == -2.0:
            got.pop()
    return got


class Clients:
    """Makes sockets that do not outlive a test."""

    def __init__(self):
        self.sockets = []

    def __call__(self, kind, endpoint, **options):
        socket = zmq.Context.instance().socket(kind)
        self.sockets.append(socket)
        socket.RCVTIMEO, socket.LINGER = TIMEOUT_MS, 0
        for name, value in options.items():
            setattr(socket, name, value)
        if kind == zmq.SUB:
            socket.RCVHWM = 0
            socket.subscribe(b"")
        socket.connect(endpoint)
        return socket

    def close(self):
        for socket in self.sockets:
            socket.close(linger=0)


ARRAYS = {
    "BlockStored": (
        "block_hashes",
        "parent_block_hash",
        "token_ids",
        "block_size",
        "lora_id",
        "medium",
        "lora_name",
        "extra_keys",
        "group_idx",
        "kv_cache_spec_kind",
        "kv_cache_spec_sliding_window",
    ),
    "BlockRemoved": ("block_hashes", "medium", "group_idx"),
    "AllBlocksCleared": (),
}
"""Names of the fields that an event has as an array, after its type."""


def fields_of(event):
    """The fields of an event, an array or a map, by name; those that a map leaves out are missing."""
    if isinstance(event, dict):
        return event
    kind, *values = event
    return {"type": kind, **dict(zip(ARRAYS[kind], values, strict=True))}


class Subscriber:
    """A router in small: follows which blocks an engine has, and asks for a replay of what it has missed.

    Attributes:
        next: Number of the first message that it has not read.
        cached: (group, hash) -> number of blocks that have it.
        replayed: Number of messages that came by a replay.
    """

    def __init__(self, client, publisher):
        self._live = client(zmq.SUB, publisher.endpoint)
        self._asker = client(zmq.DEALER, publisher.replay_endpoint)
        self.next = 0
        self.cached = Counter()
        self.replayed = 0

    def catch_up(self):
        """Read by a replay what has been published and not read."""
        self._asker.send_multipart(request(self.next))
        while True:
            _, number, payload = self._asker.recv_multipart()
            if number == END_OF_REPLAY:
                return
            self._read(number_of(number), payload)
            self.replayed += 1

    def follow(self, end):
        """Read live messages until all before number `end` were read, and those in a gap by a replay."""
        while self.next < end:
            _, number, payload = self._live.recv_multipart()
            if number_of(number) > self.next:
                self.catch_up()
            if number_of(number) == self.next:
                self._read(self.next, payload)

    def overlook(self):
        """Lose the next live message that it has not read, as on a bad connection; a replay may have overtaken some."""
        lost = -1
        while lost < self.next:
            lost = number_of(self._live.recv_multipart()[1])

    def _read(self, number, payload):
        assert number == self.next
        self.next += 1
        _, events, *_ = msgspec.msgpack.decode(payload)
        for fields in map(fields_of, events):
            if fields["type"] == "AllBlocksCleared":
                self.cached.clear()
                continue
            keys = Counter((fields.get("group_idx"), block_hash) for block_hash in fields["block_hashes"])
            if fields["type"] == "BlockStored":
                self.cached += keys
            else:
                self.cached -= keys
