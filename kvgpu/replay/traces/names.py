"""Numbers for the ids of one's own trace, which may be hashes of any size, or the tokens of the prompts themselves."""

from collections.abc import Hashable, Sequence
from typing import Any

ROOT = -1


class Names:
    """Gives a small number to each name that comes up, the same for the same name.

    Two prompts have the same numbers as long as their names, or their tokens from the beginning, are equal.
    """

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}

    def of_ids(self, ids: Sequence[Any]) -> list[int]:
        """Return a number for each id. O(ids)."""
        return [self._number(name) for name in ids]

    def of_tokens(self, tokens: Sequence[int], per_id: int) -> list[int]:
        """Return a number for each run of `per_id` tokens of a prompt, the last of which may be shorter. O(tokens)."""
        numbers = []
        before = ROOT
        for begin in range(0, len(tokens), per_id):
            before = self._number((before, *tokens[begin : begin + per_id]))
            numbers.append(before)
        return numbers

    def _number(self, name: Hashable) -> int:
        return self._numbers.setdefault(name, len(self._numbers))
