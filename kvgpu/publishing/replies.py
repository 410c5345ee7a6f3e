"""What a replay client is owed."""

from bisect import bisect_left
from collections import deque
from time import monotonic

import zmq

from kvgpu.publishing.messages import END_OF_REPLAY, Message

MAX_REQUESTS = 8
"""Requests of one client that are answered one after the other; more are dropped."""

END: Message = (END_OF_REPLAY, b"")


class Replies:
    """The replies to one client: one that was begun, and requests that wait for it to end.

    Args:
        client: Routing id.
        sent: Messages that are kept; other threads may append meanwhile.
        start: Sequence number that is asked for first.

    Attributes:
        took: When the client last took a message, or asked when it was owed none.
    """

    def __init__(self, client: bytes, sent: deque[Message], start: bytes) -> None:
        self.took = monotonic()
        self._client = client
        self._sent = sent
        self._further: deque[bytes] = deque()
        self._begin(start)

    def add(self, start: bytes) -> bool:
        """Remember a further request; False if there are too many. O(1)."""
        if len(self._further) + 1 >= MAX_REQUESTS:
            return False
        self._further.append(start)
        return True

    def forget_further(self) -> None:
        """Leave it at the reply that was begun."""
        self._further.clear()

    def send(self, socket: "zmq.Socket[bytes]", messages: int, nbytes: int) -> tuple[int, bool]:
        """Send until so many messages or bytes are out, the client takes no more, or all is done.

        Returns:
            Messages that the client took, and whether it is owed nothing more.

        Raises:
            zmq.ZMQError: It is gone, or the socket is.
        """
        for count in range(messages):
            message = self._remaining[0]
            try:
                socket.send_multipart((self._client, b"", *message), zmq.DONTWAIT)
            except zmq.Again:
                return count, False
            self.took = monotonic()
            self._remaining.popleft()
            if not self._remaining:
                if not self._further:
                    return count + 1, True
                self._begin(self._further.popleft())
            nbytes -= len(message[1])
            if nbytes <= 0:
                return count + 1, False
        return messages, False

    def _begin(self, start: bytes) -> None:
        """Keep what is kept now from `start` on, whatever is pushed out later. O(messages)."""
        kept = list(self._sent.copy())
        self._remaining = deque(kept[bisect_left(kept, (start,)) :])
        self._remaining.append(END)
