"""`Growth`: tokens and hashes given to many requests as one change, which can be rolled back."""

from collections.abc import Sequence
from typing import Any

from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.hashing.new_hashes import NewHashes, append_hashes, cut_hashes
from kvgpu.hashing.request_hasher import RequestBlockHasher
from kvgpu.request import Request


def can_roll_back(request: Any) -> bool:
    """Return whether a request appends and hashes by kvgpu's own methods, so that both can be rolled back. O(1)."""
    kind = type(request)
    return kind is Request or (
        issubclass(kind, Request)
        and kind.append_output_token_ids is Request.append_output_token_ids
        and kind.append_unhashed is Request.append_unhashed
        and kind.update_block_hashes is Request.update_block_hashes
    )


class Growth:
    """Requests that are given tokens, all of which `can_roll_back`.

    Attributes:
        new: The hashes that `hash` has made, which the requests get at `commit`.
    """

    def __init__(self) -> None:
        self.new: list[NewHashes] = []
        self._before: list[tuple[Request, int, Any, int, bool]] = []

    def give(self, request: Request, tokens: Sequence[int], hashes: BlockHashes | None = None) -> None:
        """Append tokens, and those of their hashes that are known already. Amortised O(len(tokens))."""
        held = request.block_hashes
        self._before.append((request, len(request.all_token_ids), held, len(held), getattr(held, "linked", False)))
        request.append_unhashed(tokens)
        if hashes is not None:
            append_hashes(request, hashes, hashes.linked)

    def hash(self) -> None:
        """Make the hashes of all blocks that are full, in one call per `RequestBlockHasher`. O(tokens).

        Raises:
            ArgumentError, ArgumentTypeError: As `RequestBlockHasher.update`.
        """
        by_hasher: dict[RequestBlockHasher, list[Request]] = {}
        for request in {id(request): request for request, *_ in self._before}.values():
            hasher = request.block_hasher
            if isinstance(hasher, RequestBlockHasher):
                by_hasher.setdefault(hasher, []).append(request)
            elif hasher is not None:
                self.new.append(request.new_hashes())
        self.new += [hasher.prepare(requests) for hasher, requests in by_hasher.items()]

    def commit(self) -> None:
        """Give the requests their hashes. O(hashes)."""
        for new in self.new:
            new.append()

    def roll_back(self) -> None:
        """Take tokens and hashes away from all requests. O(requests)."""
        for request, num_tokens, held, num_hashes, linked in reversed(self._before):
            del request.all_token_ids[num_tokens:]
            request.block_hashes = held
            cut_hashes(held, num_hashes, linked)
