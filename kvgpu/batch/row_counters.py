"""`RowCounters`: counters of tracked requests, changed by the engine and told to the request objects."""

import numpy as np
import numpy.typing as npt

from kvgpu.arguments import integers
from kvgpu.batch.row_blocks import RowBlocks
from kvgpu.batch.rows.record import RowIds
from kvgpu.batch.rows.requests import RequestRows
from kvgpu.batch.tracked_requests import TrackedRequests
from kvgpu.exclusive import Exclusive, exclusive


class RowCounters(Exclusive):
    """Part of `BatchManager`, which says what its attributes are."""

    rows: RequestRows
    blocks: RowBlocks
    requests: TrackedRequests

    @exclusive
    def rewind(self, rows: RowIds, num_tokens: npt.ArrayLike) -> None:
        """Take back computed tokens, as when drafts are rejected; their slots stay.

        Args:
            rows: int64 [n].
            num_tokens: Integers [n] or one for all.

        Raises:
            ArgumentError: A row that is not tracked or comes twice, or more tokens than it has computed.
            ArgumentTypeError: Numbers of another kind or shape. Nothing is changed.

        O(rows).
        """
        rows = self.rows.valid(rows)
        given = integers("num_tokens", num_tokens, len(rows), one_for_all=True)
        self.blocks.rewind(rows, given)

    @exclusive
    def set_computed(self, rows: RowIds, num_tokens: npt.ArrayLike) -> None:
        """Set the number of computed tokens of rows, as when keys and values have arrived from elsewhere.

        Args:
            rows: int64 [n], of requests that hold blocks.
            num_tokens: Integers [n] or one for all: at most the tokens of the request, and those that have slots.

        Raises:
            ArgumentError: A row that is not tracked or comes twice, or more tokens than it has.
            ArgumentTypeError: Numbers of another kind or shape. Nothing is changed.

        O(rows).
        """
        rows = self.rows.valid(rows)
        given = integers("num_tokens", num_tokens, len(rows), one_for_all=True)
        self.blocks.set_computed(rows, np.broadcast_to(given, rows.shape))

    @exclusive
    def sync(self, rows: RowIds | None = None) -> None:
        """Bring the request objects of rows (all if None) up to date: tokens, hashes, `num_computed_tokens`.

        Raises:
            ArgumentError: A row that is not tracked, or comes twice. Nothing is changed.

        If a request of another engine raises, its error is raised after all others are up to date; it keeps waiting for
        its tokens.

        O(rows). For callers that read the objects; the batched calls do not need it.
        """
        self.requests.sync(self.rows.valid(rows))
