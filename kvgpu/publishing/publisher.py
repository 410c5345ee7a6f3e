"""KV events over ZeroMQ: a PUB socket, and a ROUTER socket for subscribers that missed some (fact 60).

Needs pyzmq (extra `events`).
"""

import weakref
from collections import deque
from typing import TYPE_CHECKING

from kvgpu.errors import ConfigError, MissingPackageError, PublisherShutDownError
from kvgpu.events.messages import EventBatch
from kvgpu.publishing.endpoints import is_bound, offset_endpoint
from kvgpu.publishing.messages import END_OF_REPLAY, Message, MessageEncoder
from kvgpu.publishing.outbox import Outbox

if TYPE_CHECKING:
    from kvgpu.publishing.worker import Worker

__all__ = ["END_OF_REPLAY", "ZmqEventPublisher", "is_bound", "offset_endpoint"]


class ZmqEventPublisher:
    """Sends every batch as (topic, sequence number, msgpack) from a separate thread.

    No error there, whether of a batch, a subscriber or a socket, reaches the caller: a batch that cannot be sent is
    dropped, logged and counted, and leaves a gap in the sequence numbers. `shutdown` sends what was published and frees
    the ports. The same happens when the process ends (except by a signal or `os._exit`), and soon after the last
    reference to the publisher is gone. In a forked child, batches are dropped: the publisher belongs to the parent.

    Sequence numbers are 8 bytes, big-endian. They start at 0 and follow the order of the calls of `publish`, which may
    come from any thread.

    Args:
        data_parallel_rank: Written into each batch, and added to the ports.
        endpoint: Endpoint of the PUB socket. An endpoint of this host is bound, any other one is connected to; see
            `is_bound`. Events contain prompts: the default serves this host only.
        replay_endpoint: Endpoint of the ROUTER socket, always bound; None for no replay. A client sends an empty frame
            and the first sequence number that it wants. It gets (empty, sequence number, payload) for each batch from
            there on that is buffered when its reply begins, then `END_OF_REPLAY`. The server gives up a client that
            takes nothing for 60 s.
        buffer_steps: Batches that are buffered for replay.
        hwm: High-water mark of the PUB socket, in messages for each subscriber; 0 for none.
        max_queue_size: Most batches that wait to be sent; 0 for no limit. If the queue is full, the oldest batch is
            dropped.
        topic: First frame of each message.

    Attributes:
        endpoint: Endpoint of the PUB socket, with the port that the system chose for `tcp://*:*`.
        replay_endpoint: The same for the ROUTER socket; None without replay.

    Raises:
        ConfigError: The rank gives no endpoint, a socket cannot be opened, a size is negative, or the topic cannot be
            encoded.
        MissingPackageError: pyzmq is not installed.
    """

    def __init__(
        self,
        data_parallel_rank: int = 0,
        endpoint: str = "tcp://127.0.0.1:5557",
        replay_endpoint: str | None = None,
        buffer_steps: int = 10_000,
        hwm: int = 100_000,
        max_queue_size: int = 100_000,
        topic: str = "",
    ) -> None:
        try:
            import zmq
        except ImportError:
            raise MissingPackageError("pyzmq is missing: pip install 'kvgpu[events]'") from None
        from kvgpu.publishing.channel import Channel
        from kvgpu.publishing.replay_server import OPTIONS, ReplayServer
        from kvgpu.publishing.sender import Sender

        if min(buffer_steps, hwm, max_queue_size) < 0:
            raise ConfigError("buffer_steps, hwm and max_queue_size must be 0 or more")
        try:
            first_frame = topic.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"the topic cannot be sent: {error}") from None
        self._outbox = Outbox(max_queue_size)
        self._is_shut_down = False
        sent: deque[Message] = deque(maxlen=0 if replay_endpoint is None else buffer_steps)
        rank, hwms = data_parallel_rank, {zmq.SNDHWM: hwm, zmq.RCVHWM: hwm}
        channel = Channel(zmq.PUB, endpoint, rank, hwms)
        sender = Sender(channel, first_frame, MessageEncoder(rank), self._outbox, sent)
        self._workers: list[Worker] = [sender]
        self.endpoint, self.replay_endpoint = channel.endpoint, None
        try:
            if replay_endpoint is not None:
                channel = Channel(zmq.ROUTER, replay_endpoint, rank, OPTIONS, bind=True)
                self._workers.append(ReplayServer(channel, sent))
                self.replay_endpoint = channel.endpoint
            for worker in self._workers:
                worker.start()
        except BaseException:
            _discard(self._workers)
            raise
        # The threads have no reference to the publisher, so that it can be collected.
        weakref.finalize(self, _discard, self._workers).atexit = False

    @property
    def num_published(self) -> int:
        """Number of batches given to `publish`, which is also the next sequence number. O(1)."""
        return self._outbox.num_put

    @property
    def num_dropped(self) -> int:
        """Number of batches that were not sent and will not be, for whatever reason. O(1)."""
        return self._outbox.num_dropped

    def publish(self, batch: EventBatch) -> None:
        """Queue a batch. Never waits; may be called from any thread. O(1).

        Raises:
            PublisherShutDownError: `shutdown` was called. No other error is raised.
        """
        if self._is_shut_down:
            raise PublisherShutDownError("the publisher was shut down; make a new one")
        self._outbox.put(batch)

    def shutdown(self, timeout: float = 5.0) -> None:
        """Send all queued batches, finish the replays that have begun, and close. Further calls do nothing.

        Args:
            timeout: Seconds after which all that is not yet sent is dropped. Closing the sockets may take 2 s more if
                peers read slowly.
        """
        from kvgpu.publishing.worker import stop_workers

        self._is_shut_down = True
        stop_workers(self._workers, timeout)


def _discard(workers: "list[Worker]") -> None:
    """Let the workers end by themselves."""
    for worker in workers:
        worker.discard()
