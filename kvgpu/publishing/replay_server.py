"""The thread that answers replay requests."""

import logging
from collections import deque
from math import inf
from time import monotonic, sleep

import zmq

from kvgpu.publishing.channel import Channel, Options, is_fatal
from kvgpu.publishing.complaints import Complaints
from kvgpu.publishing.messages import NUMBER_BYTES, Message
from kvgpu.publishing.replies import Replies
from kvgpu.publishing.worker import Worker

logger = logging.getLogger(__name__)

QUEUED = 64
"""High-water mark of the socket: messages that may wait for a client that reads slowly."""
OPTIONS: Options = {
    zmq.ROUTER_MANDATORY: 1,  # raise an error, rather than drop the message, if a client takes no more or is gone
    zmq.SNDHWM: QUEUED,
    zmq.RCVHWM: QUEUED,
    zmq.TCP_KEEPALIVE: 1,
}

MAX_CLIENTS = 64
"""Most clients that are answered at a time; meanwhile the requests of others stay in their connections."""
PATIENCE_S = 60.0
"""How long a client may take nothing before the server gives it up, in seconds."""
PATIENCE_WHEN_FULL_S = 5.0
"""The same while `MAX_CLIENTS` are being answered, since others may be waiting."""
STALL_S = 1.0
"""The same for all clients together after the server is stopped."""
SETTLE_S = 1.0
"""How long a stop waits after a client got its end marker before it closes the connection, in seconds.

Otherwise, messages still on their way to a client that reads slowly would be lost.
"""

REQUESTS_PER_TURN = 8
MESSAGES_PER_TURN = 32
BYTES_PER_TURN = 1 << 18
BREATH_S = 0.0005
"""Pause between two turns, in seconds, so that a thread that waits for the interpreter gets it."""
IDLE_MS = 50
LONGEST_RETRY_MS = 32
"""Longest wait before all clients are tried again, ever less often: ZeroMQ does not say which one can take more."""


class ReplayServer(Worker):
    """Answers each request with all buffered messages from a sequence number on, then an end marker.

    Work is done in small turns, each of which serves every client that takes something. Memory and time are bounded
    whatever clients do; see the constants above.

    Args:
        channel: Channel of a ROUTER socket, with `OPTIONS`.
        sent: Buffered messages; another thread appends to them.

    Attributes:
        num_refused: Requests that were malformed or too many.
        num_given_up: Clients that vanished, or took nothing for too long, before their replies ended.
    """

    def __init__(self, channel: Channel, sent: deque[Message]) -> None:
        super().__init__("kvgpu-replay", channel)
        self.num_refused = 0
        self.num_given_up = 0
        self._sent = sent
        self._clients: dict[bytes, Replies] = {}
        self._retry_ms = 1
        self._stopping = False
        self._moved = monotonic()
        """When a client last took something, or when the server was stopped."""
        self._settled = 0.0
        """When the last client that was sent an end marker will have read it."""
        self._complaints = Complaints(logger)

    def turn(self) -> bool:
        """Read some requests, send some messages, then wait for a moment."""
        if self.deadline < inf and not self._stopping:
            self._wind_up()
        read = 0 if self._stopping else self._read()
        took = self._send()
        if self._stopping and self._is_over():
            return False
        self._give_up_on_the_stuck()
        self._wait(read + took > 0)
        return True

    def failed(self, error: BaseException) -> None:
        kind = type(error).__name__
        self._complaints.warn(kind, "An error while replaying KV events: %s: %s", kind, error)
        sleep(IDLE_MS / 1000)

    def ended(self) -> None:
        self.num_given_up += len(self._clients)
        self._clients.clear()

    def _wind_up(self) -> None:
        self._stopping, self._moved = True, monotonic()
        for replies in self._clients.values():
            replies.forget_further()

    def _is_over(self) -> bool:
        now = monotonic()
        if now > self.deadline:
            return True
        return now > (self._moved + STALL_S if self._clients else self._settled)

    def _read(self) -> int:
        """Read some requests and begin or queue their replies; return how many requests were read."""
        for count in range(REQUESTS_PER_TURN):
            frames = self._receive() if len(self._clients) < MAX_CLIENTS else None
            if frames is None:
                return count
            if len(frames) != 3 or len(frames[2]) != NUMBER_BYTES:
                self._refuse("malformed", "is malformed")
                continue
            client, _, start = frames
            if client not in self._clients:
                self._clients[client] = Replies(client, self._sent, start)
            elif not self._clients[client].add(start):
                self._refuse("too many", "came while the client is owed too many replies")
        return REQUESTS_PER_TURN

    def _receive(self) -> list[bytes] | None:
        """Return the first frames of a request, or None if there is none. All parts of a request arrive together."""
        socket = self.channel.socket
        try:
            frames = [socket.recv(zmq.DONTWAIT)]
        except zmq.Again:
            return None
        while socket.getsockopt(zmq.RCVMORE):
            frame = socket.recv(zmq.DONTWAIT)
            if len(frames) <= 3:
                frames.append(frame)
        return frames

    def _refuse(self, kind: str, why: str) -> None:
        self.num_refused += 1
        self._complaints.warn(kind, "A replay request was dropped: it %s", why)

    def _send(self) -> int:
        """Send each client its share; return how many messages the clients took."""
        clients, total = list(self._clients.items()), 0
        for client, replies in clients:
            share = max(1, MESSAGES_PER_TURN // len(clients))
            try:
                took, done = replies.send(self.channel.socket, share, BYTES_PER_TURN // len(clients))
            except BaseException as error:
                if is_fatal(error):
                    raise
                self._give_up(client, f"gone: {error}")
                continue
            total += took
            if done:
                del self._clients[client]
                self._settled = monotonic() + SETTLE_S
        if total:
            self._moved = monotonic()
        return total

    def _give_up_on_the_stuck(self) -> None:
        patience = PATIENCE_S if len(self._clients) < MAX_CLIENTS else PATIENCE_WHEN_FULL_S
        oldest = monotonic() - patience
        for client in [c for c, replies in self._clients.items() if replies.took < oldest]:
            self._give_up(client, f"given up: it took nothing for {patience:g} s")

    def _give_up(self, client: bytes, why: str) -> None:
        del self._clients[client]
        self.num_given_up += 1
        self._complaints.warn("client", "A client that KV events were replayed to is %s", why)

    def _wait(self, busy: bool) -> None:
        if busy:
            self._retry_ms = 1
            sleep(BREATH_S)
            return
        wait_ms = self._retry_ms if self._clients else IDLE_MS
        self._retry_ms = min(2 * self._retry_ms, LONGEST_RETRY_MS)
        if self._stopping or len(self._clients) >= MAX_CLIENTS:
            sleep(wait_ms / 1000)  # requests are not read now, so a pending one would end every poll at once
        else:
            self.channel.socket.poll(wait_ms, zmq.POLLIN)
