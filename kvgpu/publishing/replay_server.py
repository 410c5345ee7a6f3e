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
"""High-water mark of the socket: messages in front of a client that reads slowly."""
OPTIONS: Options = {
    zmq.ROUTER_MANDATORY: 1,  # an error where a client takes no more, or is gone, not silence
    zmq.SNDHWM: QUEUED,
    zmq.RCVHWM: QUEUED,
    zmq.TCP_KEEPALIVE: 1,
}

MAX_CLIENTS = 64
"""Clients that are answered at a time; requests of others stay in their connections meanwhile."""
PATIENCE_S = 60.0
"""How long a client may take nothing before it is given up, in seconds."""
PATIENCE_WHEN_FULL_S = 5.0
"""The same while as many clients are answered as can be: others wait for one to make room."""
STALL_S = 1.0
"""The same for all clients together once the server is stopped."""
SETTLE_S = 1.0
"""How long the connection of a client that just got its end marker is kept before a stop closes it.

What is still on its way to a client that reads slowly would be lost with it.
"""

REQUESTS_PER_TURN = 8
MESSAGES_PER_TURN = 32
BYTES_PER_TURN = 1 << 18
BREATH_S = 0.0005
"""Between two turns, so that a thread that waits for the interpreter gets it."""
IDLE_MS = 50
LONGEST_RETRY_MS = 32
"""ZeroMQ does not say which client can take more again: they are tried, ever less often."""


class ReplayServer(Worker):
    """Answers each request with all messages from a number on that are kept, and an end marker.

    Work is done in small turns, each of which serves every client that takes something. Memory
    and time are bounded whatever clients do: see the constants above.

    Args:
        channel: ROUTER, with `OPTIONS`.
        sent: Messages that are kept; another thread appends to them.

    Attributes:
        num_refused: Requests that were malformed or too many.
        num_given_up: Clients that vanished or took nothing for long before their replies ended.
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
        """When any client last took something, or when the server was stopped."""
        self._settled = 0.0
        """When the last client that got an end marker will have read it."""
        self._complaints = Complaints(logger)

    def turn(self) -> bool:
        """Read some requests, send some messages, wait for a moment."""
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
        """Begin or remember some replies; returns how many requests were looked at."""
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
        """The first frames of a request, None if there is none. Its parts come all at once."""
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
        """Let each client take its share; returns how many messages they took."""
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
            sleep(wait_ms / 1000)  # requests are not read, so one of them would end each poll
        else:
            self.channel.socket.poll(wait_ms, zmq.POLLIN)
