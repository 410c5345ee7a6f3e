"""The thread that encodes and sends batches."""

import logging
from collections import deque
from queue import Empty
from time import monotonic

import zmq

from kvgpu.publishing.channel import Channel
from kvgpu.publishing.complaints import Complaints
from kvgpu.publishing.messages import Message, MessageEncoder
from kvgpu.publishing.outbox import Outbox
from kvgpu.publishing.worker import Worker

logger = logging.getLogger(__name__)

CHECK_S = 0.05
"""How long the sender waits for a batch before it checks that a shared context still exists, in seconds."""


class Sender(Worker):
    """Sends the batches of an outbox, and buffers the messages for replays.

    A batch that cannot be encoded is dropped, counted and logged.

    Args:
        channel: Channel of a PUB socket.
        topic: First frame of each message.
        encode: Encodes a batch as a message.
        outbox: Source of the batches; `stop` closes it.
        sent: Buffer of the messages; its `maxlen` is the number of messages that it holds.
    """

    def __init__(
        self, channel: Channel, topic: bytes, encode: MessageEncoder, outbox: Outbox, sent: deque[Message]
    ) -> None:
        super().__init__("kvgpu-events", channel)
        self._topic = topic
        self._encode = encode
        self._outbox = outbox
        self._sent = sent
        self._complaints = Complaints(logger)
        self._overflown = 0
        self._timeout = CHECK_S if channel.is_shared else None

    def stop(self, seconds: float) -> None:
        super().stop(seconds)
        self._outbox.close()

    def turn(self) -> bool:
        """Send one batch."""
        try:
            item = self._outbox.get(self._timeout)
        except Empty:
            self.channel.check()
            return True
        if item is None:
            return False
        if monotonic() > self.deadline:
            self._outbox.count_dropped()
            return False
        try:
            message = self._encode(*item)
        # Encoding may run foreign code that an engine put into a batch: no error there may end the thread.
        except BaseException as error:
            self._outbox.count_dropped()
            self.failed(error)
            return True
        # Before sending, so that a subscriber that misses the message can have it replayed.
        self._sent.append(message)
        try:
            self.channel.socket.send_multipart((self._topic, *message), zmq.DONTWAIT)
        except BaseException:
            self._outbox.count_dropped()
            raise
        self._warn_of_overflow()
        return True

    def failed(self, error: BaseException) -> None:
        kind = type(error).__name__
        self._complaints.warn(kind, "KV events were not sent: %s: %s", kind, error)

    def ended(self) -> None:
        rest = self._outbox.abandon()
        if rest:
            self._complaints.warn("end", "%d batches of KV events were not sent at the end", rest)

    def _warn_of_overflow(self) -> None:
        """Log overflows of the queue here, since a log may be slow and `publish` must not be."""
        overflown = self._outbox.num_overflown
        if overflown != self._overflown:
            self._overflown = overflown
            self._complaints.warn("full", "The queue of KV events was full: %d batches dropped so far", overflown)
