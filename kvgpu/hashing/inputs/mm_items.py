"""Multimodal items of a request, sorted by position: which of them overlap a block, and where to look next."""

from bisect import bisect_left
from typing import Any


def overlapping_items(request: Any, start: int, end: int, cursor: int) -> tuple[list[tuple[Any, int]], int]:
    """Find the multimodal items that overlap tokens [start, end).

    Args:
        request: The request.
        start, end: Tokens of a block.
        cursor: First item that may overlap; -1 for the last item (fact 6).

    Returns:
        Each item with its offset within the block, which is negative if the item begins in an earlier block; and the
        cursor for the next block.

    O(items that overlap, or end between the cursor and `start`).
    """
    features = getattr(request, "mm_features", None)
    if not features:
        return [], cursor
    last = features[-1].mm_position
    if last.offset + last.length <= start:
        return [], cursor
    if cursor < 0:
        cursor += len(features)
    items: list[tuple[Any, int]] = []
    while cursor < len(features):
        position = features[cursor].mm_position
        if position.offset >= end:
            break
        item_end = position.offset + position.length
        if item_end > start:
            items.append((features[cursor], position.offset - start))
            if item_end > end:
                break
        cursor += 1
    return items, cursor


def first_item_from(request: Any, start: int) -> int:
    """Return the first multimodal item that ends after token `start`, where the next hash begins (fact B4).

    Args:
        request: The request; its items do not overlap each other.
        start: A token of the request.

    Returns:
        A cursor for `overlapping_items`; 0 if no item ends there.

    O(log(items)).
    """
    features = getattr(request, "mm_features", None)
    if not start or not features or _end(features[-1]) <= start:
        return 0
    return bisect_left(features, start + 1, key=_end)


def item_seen_again(request: Any, end: int, cursor: int) -> int:
    """Move a cursor back to the first item that ends after token `end`.

    With look-ahead, the search for a block has passed items that the next block, which begins at `end`, overlaps, too.

    O(items passed).
    """
    features = getattr(request, "mm_features", None)
    while cursor > 0 and _end(features[cursor - 1]) > end:  # type: ignore[index]
        cursor -= 1
    return cursor


def _end(feature: Any) -> int:
    """Token after the last of an item."""
    position = feature.mm_position
    return int(position.offset + position.length)
