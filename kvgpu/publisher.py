"""KV events over ZeroMQ: a PUB socket, and a ROUTER socket for those that missed some (fact 60).

Needs pyzmq (extra `events`).
"""

import queue
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from kvgpu.errors import ConfigError
from kvgpu.events import EventBatch

if TYPE_CHECKING:
    import zmq

END_OF_REPLAY = (-1).to_bytes(8, "big", signed=True)
"""Sequence number of the last reply to a replay request; its payload is empty."""

POLL_MS = 50
"""How long the sender waits for a batch before it looks for replay requests, in ms."""

_STOP = object()


def offset_endpoint(endpoint: str, rank: int) -> str:
    """The endpoint of one data-parallel rank: tcp ports are counted up, inproc names get a suffix.

    Raises:
        ConfigError: Another transport, or a tcp endpoint without port, with a rank above 0.
    """
    if rank == 0:
        return endpoint
    if endpoint.startswith("inproc://"):
        return f"{endpoint}_dp{rank}"
    base, _, port = endpoint.rpartition(":")
    if endpoint.startswith("tcp://") and port.isdigit():
        return f"{base}:{int(port) + rank}"
    raise ConfigError(
        f"no endpoint for data-parallel rank {rank} follows from {endpoint!r}: give a tcp endpoint "
        "with a port, or an inproc one"
    )


def is_bound(endpoint: str) -> bool:
    """True if a publisher binds this endpoint; it connects to all others."""
    return "*" in endpoint or "::" in endpoint or endpoint.startswith(("ipc://", "inproc://"))


class ZmqEventPublisher:
    """Sends every batch as (topic, sequence number, msgpack) from a thread of its own.

    Args:
        data_parallel_rank: Written into each batch, and added to the ports.
        endpoint: Of the PUB socket.
        replay_endpoint: Of the ROUTER socket; None for no replay. A client sends an empty frame
            and the first sequence number it wants, and gets (empty, sequence number, payload) for
            each batch that is still buffered, then `END_OF_REPLAY`.
        buffer_steps: Batches kept for replay.
        hwm: High-water mark of the PUB socket, in messages.
        max_queue_size: Batches waiting to be sent; `publish` blocks when there are so many.
        topic: First frame of each message.

    Sequence numbers are 8 bytes, big-endian, and start at 0. `publish` may be called from one
    thread; nothing else is shared.

    Raises:
        ConfigError: The rank gives no endpoint, or a socket cannot be opened.
        ImportError: pyzmq is not installed.
    """

    def __init__(
        self,
        data_parallel_rank: int = 0,
        endpoint: str = "tcp://*:5557",
        replay_endpoint: str | None = None,
        buffer_steps: int = 10_000,
        hwm: int = 100_000,
        max_queue_size: int = 100_000,
        topic: str = "",
    ) -> None:
        import zmq

        self._rank = data_parallel_rank
        self._topic = topic.encode()
        self._waiting: queue.Queue[Any] = queue.Queue(max_queue_size)
        self._sent: deque[tuple[bytes, bytes]] = deque(maxlen=buffer_steps)
        self._encode = msgspec.msgpack.Encoder().encode
        context: zmq.Context[Any] = zmq.Context.instance()
        self._pub = context.socket(zmq.PUB)
        self._router: zmq.Socket[bytes] | None = None
        try:
            self._pub.set_hwm(hwm)
            self._open(self._pub, endpoint, bind=is_bound(endpoint))
            if replay_endpoint is not None:
                self._router = context.socket(zmq.ROUTER)
                self._open(self._router, replay_endpoint, bind=True)
        except BaseException:
            self._close_sockets()
            raise
        self._thread = threading.Thread(target=self._run, name="kvgpu-events", daemon=True)
        self._thread.start()

    def publish(self, batch: EventBatch) -> None:
        """Queue a batch; blocks while the queue is full.

        Raises:
            ValueError: The publisher was shut down.
        """
        if not self._thread.is_alive():
            raise ValueError("the publisher was shut down; make a new one")
        batch.data_parallel_rank = self._rank
        self._waiting.put(batch)

    def shutdown(self) -> None:
        """Send what is queued, then close. Returns when that is done; further calls do nothing."""
        if self._thread.is_alive():
            self._waiting.put(_STOP)
            self._thread.join()

    def _open(self, socket: "zmq.Socket[bytes]", endpoint: str, bind: bool) -> None:
        import zmq

        endpoint = offset_endpoint(endpoint, self._rank)
        try:
            (socket.bind if bind else socket.connect)(endpoint)
        except zmq.ZMQError as error:
            raise ConfigError(f"cannot open {endpoint!r} for events: {error}") from error

    def _close_sockets(self) -> None:
        self._pub.close(linger=1000)
        if self._router is not None:
            self._router.close(linger=1000)

    def _run(self) -> None:
        sequence = 0
        while True:
            if self._router is not None:
                self._answer(self._router)
            try:
                batch = self._waiting.get(timeout=POLL_MS / 1000)
            except queue.Empty:
                continue
            if batch is _STOP:
                self._close_sockets()
                return
            number, payload = sequence.to_bytes(8, "big"), self._encode(batch)
            self._pub.send_multipart((self._topic, number, payload))
            self._sent.append((number, payload))
            sequence += 1

    def _answer(self, router: "zmq.Socket[bytes]") -> None:
        """Serve every replay request that has come in; malformed ones are dropped."""
        while router.poll(0):
            client, *frames = router.recv_multipart()
            if len(frames) != 2 or len(frames[1]) != 8:
                continue
            start = frames[1]
            for number, payload in self._sent:
                # Big-endian numbers compare as their bytes do.
                if number >= start:
                    router.send_multipart((client, b"", number, payload))
            router.send_multipart((client, b"", END_OF_REPLAY, b""))
