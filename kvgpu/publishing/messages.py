"""What is sent: a number and a payload (fact 60)."""

from typing import Any

import msgspec

from kvgpu.events.messages import EventBatch

Message = tuple[bytes, bytes]
"""Sequence number, 8 bytes big-endian, which compare as the numbers do; batch as msgpack."""

NUMBER_BYTES = 8

END_OF_REPLAY = (-1).to_bytes(NUMBER_BYTES, "big", signed=True)
"""Sequence number of the last reply to a replay request; its payload is empty."""


class MessageEncoder:
    """Makes messages of the batches of one data-parallel rank.

    Args:
        rank: Written into each batch.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._encode = msgspec.msgpack.Encoder().encode

    def __call__(self, number: int, batch: EventBatch | Any) -> Message:
        """The message. Raises whatever a batch can provoke that msgpack does not know. O(bytes)."""
        batch.data_parallel_rank = self._rank
        return number.to_bytes(NUMBER_BYTES, "big"), self._encode(batch)
