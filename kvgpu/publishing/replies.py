"""The replies that a replay client has yet to get."""

from bisect import bisect_left
from collections import deque
from time import monotonic

import zmq

from kvgpu.publishing.messages import END_OF_REPLAY, Message

MAX_REQUESTS = 8
"""Requests of one client that are answered one after the other; further ones are dropped."""

END: Message = (END_OF_REPLAY, b"")


class Replies:
    """The replies to one client: the current one, and requests that wait for it to end.

    Args:
        client: Routing id of the client.
        sent: Buffered messages; other threads may append meanwhile.
        start: Sequence number that the first request begins at.

    Attributes:
        took: When the client last took a message; before that, when its first request was read.
    """

    def __init__(self, client: bytes, sent: deque[Message], start: bytes) -> None:
        self.took = monotonic()
        self._client = client
        self._sent = sent
        self._further: deque[bytes] = deque()
        self._begin(start)

    def add(self, start: bytes) -> bool:
        """Queue a further request; return False if there are too many. O(1)."""
        if len(self._further) + 1 >= MAX_REQUESTS:
            return False
        self._further.append(start)
        return True

    def forget_further(self) -> None:
        """Drop all requests after the current one."""
        self._further.clear()

    def send(self, socket: "zmq.Socket[bytes]", messages: int, nbytes: int) -> tuple[int, bool]:
        """Send until `messages` messages or `nbytes` bytes are out, the client takes no more, or all is sent.

        Returns:
            The number of messages that the client took, and whether all its replies are complete.

        Raises:
            zmq.ZMQError: The client or the socket is gone.
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
        """Begin a reply of the messages from `start` on that are buffered now, even if some are dropped later.

        O(messages).
        """
        kept = list(self._sent.copy())
        self._remaining = deque(kept[bisect_left(kept, (start,)) :])
        self._remaining.append(END)
