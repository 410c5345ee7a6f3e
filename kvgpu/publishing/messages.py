"""Messages that are sent: a sequence number and a payload (fact 60)."""

from typing import Any

import msgspec

from kvgpu.events.messages import EventBatch

Message = tuple[bytes, bytes]
"""Sequence number as 8 big-endian bytes, which compare as the numbers do; batch as msgpack."""

NUMBER_BYTES = 8

END_OF_REPLAY = (-1).to_bytes(NUMBER_BYTES, "big", signed=True)
"""Sequence number of the last reply to a replay request; its payload is empty."""


class MessageEncoder:
    """Encodes the batches of one data-parallel rank as messages.

    Args:
        rank: Written into each batch.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._encode = msgspec.msgpack.Encoder().encode

    def __call__(self, number: int, batch: EventBatch | Any) -> Message:
        """Encode a batch as a message. Raises any error that a batch unknown to msgpack provokes. O(bytes)."""
        batch.data_parallel_rank = self._rank
        return number.to_bytes(NUMBER_BYTES, "big"), self._encode(batch)
