"""Extra keys: they tell blocks with equal tokens apart, by LoRA adapter, multimodal items, salt and prompt embeddings.

Requests are duck-typed: `lora_request`, `mm_features`, `cache_salt` and `prompt_embeds` may be missing.
"""

import hashlib
import reprlib
from collections.abc import Callable
from typing import Any

import numpy as np

from kvgpu.errors import ArgumentError, ArgumentTypeError

ExtraKeys = tuple[Any, ...] | None


def written_alike(extra: ExtraKeys, other: ExtraKeys) -> bool:
    """Whether the extra keys of two blocks are certain to be serialised to the same bytes.

    They are if both are None, or both are a tuple of one equal, plain string. Equality is not enough for others: 1
    equals True and is written differently, a subclass of `str` may equal a plain string, and pickle refers to
    objects that it wrote before. O(length of the string).
    """
    if extra is None or other is None:
        return extra is other
    return (
        type(extra) is type(other) is tuple
        and len(extra) == len(other) == 1
        and type(extra[0]) is type(other[0]) is str
        and extra[0] == other[0]
    )


def written(serialise: Callable[..., bytes], value: Any, **options: Any) -> bytes:
    """Serialise extra keys.

    Args:
        serialise: `pickle.dumps` or `cbor2.dumps`.
        value: The extra keys.
        options: Passed on to `serialise`.

    Raises:
        ArgumentTypeError: The serialiser cannot write them, because of an unknown object or invalid text.
    """
    try:
        return bytes(serialise(value, **options))
    except MemoryError:
        raise
    except Exception as error:
        raise unwritten(value, error) from error


def unwritten(value: Any, error: Exception) -> ArgumentTypeError:
    """The error to raise after a serialiser has failed."""
    return ArgumentTypeError(
        f"extra keys {reprlib.repr(value)} cannot be serialised, so they cannot be hashed: {error}"
    )


def need_extra_keys(request: Any) -> bool:
    """Whether any block of the request may have extra keys."""
    return bool(
        getattr(request, "mm_features", None)
        or getattr(request, "lora_request", None) is not None
        or getattr(request, "cache_salt", None) is not None
        or getattr(request, "prompt_embeds", None) is not None
    )


def check_text(name: str, text: Any) -> None:
    """Check that text can be written to messages and events.

    Args:
        name: Name of the attribute, for the error.
        text: Its value; anything but text passes.

    Raises:
        ArgumentError: The text has half of a surrogate pair, which a client's JSON can contain: ``"\\ud800"``.

    O(1) for ASCII, else O(length).
    """
    if isinstance(text, str) and not str.isascii(text):
        try:
            str.encode(text)
        except UnicodeEncodeError as error:
            raise ArgumentError(
                f"{name} cannot be encoded as UTF-8: {error.reason} at character {error.start}"
            ) from None


def check_extra_keys(request: Any) -> None:
    """Check that all text in the extra keys of a request can be hashed and published.

    Raises:
        ArgumentError: As in `check_text`; the message names the attribute.

    O(items).
    """
    check_text("cache_salt", getattr(request, "cache_salt", None))
    lora = getattr(request, "lora_request", None)
    if lora is not None:
        check_text("lora_request.lora_name", getattr(lora, "lora_name", None))
    for place, feature in enumerate(getattr(request, "mm_features", None) or ()):
        check_text(f"mm_features[{place}].identifier", getattr(feature, "identifier", None))


def _items(request: Any, start: int, end: int, cursor: int) -> tuple[list[tuple[Any, int]], int]:
    """Find the multimodal items that overlap tokens [start, end).

    Args:
        request: The request.
        start, end: Tokens of a block.
        cursor: First item that may overlap; -1 for the last item (fact 6).

    Returns:
        Each item with its offset within the block, which is negative if the item begins in an earlier block; and the
        cursor for the next block.
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


def _embeds_keys(request: Any, start: int, end: int) -> list[bytes]:
    """Hash the prompt embeddings of tokens [start, end) with SHA-256, once per range; an empty list if none exist."""
    embeds = getattr(request, "prompt_embeds", None)
    if embeds is None:
        return []
    known: dict[tuple[int, int], bytes]
    known = getattr(request, "_prompt_embeds_per_block_hashes", {})
    if (start, end) not in known:
        part = embeds[start:end]
        data: Any = tensor_data(part) if hasattr(part, "detach") else np.ascontiguousarray(part)
        known[start, end] = hashlib.sha256(data).digest()
    return [known[start, end]]


def tensor_data(tensor: Any) -> Any:
    """Return the bytes of a torch tensor of any dtype, in row order."""
    import torch

    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data if flat.numel() else b""


def generate_block_hash_extra_keys(
    request: Any, start_token_idx: int, end_token_idx: int, start_mm_idx: int
) -> tuple[ExtraKeys, int]:
    """Generate the extra keys of the block of tokens [start_token_idx, end_token_idx).

    Args:
        request: The request.
        start_token_idx: First token of the block.
        end_token_idx: Token after the last.
        start_mm_idx: Multimodal item to begin with: 0, the item that the call for the previous block returned, or -1
            for the last item.

    Returns:
        A tuple of keys, in the order LoRA name, multimodal items, salt (first block only), prompt embeddings, or None
        if there are none; and the item to begin with for the next block.

    O(items of the block).
    """
    items, next_mm = _items(request, start_token_idx, end_token_idx, start_mm_idx)
    lora = getattr(request, "lora_request", None)
    keys: list[Any] = [lora.lora_name] if lora else []
    keys += [(item.identifier, offset) for item, offset in items]
    salt = getattr(request, "cache_salt", None)
    if start_token_idx == 0 and salt:
        keys.append(salt)
    keys += _embeds_keys(request, start_token_idx, end_token_idx)
    return (tuple(keys) if keys else None), next_mm


def generate_tagged_extra_keys(
    request: Any, start_token_idx: int, end_token_idx: int, start_mm_idx: int
) -> tuple[ExtraKeys, int]:
    """Generate extra keys with tags for their kinds, so that keys of one kind never equal keys of another.

    Args:
        request, start_token_idx, end_token_idx, start_mm_idx: As in `generate_block_hash_extra_keys`.

    Returns:
        A tuple, in the same order, of ``("lora", name, adapter id)``, ``("mm", identifier, offset within the block,
        mask)``, ``("salt", salt)`` and ``("embeds", SHA-256)``, or None if there are none; and the item to begin with
        for the next block. The adapter id is None if the adapter has none. The mask comes from
        `mm_position.is_embed`: one byte for each of the item's tokens in this block, 1 if it is an embedding; None if
        all are.

    O(items of the block).
    """
    items, next_mm = _items(request, start_token_idx, end_token_idx, start_mm_idx)
    lora = getattr(request, "lora_request", None)
    keys: list[Any] = [("lora", lora.lora_name, _adapter_id(lora))] if lora else []
    for item, offset in items:
        mask = _mask(item.mm_position, start_token_idx, end_token_idx)
        keys.append(("mm", item.identifier, offset, mask))
    salt = getattr(request, "cache_salt", None)
    if start_token_idx == 0 and salt:
        keys.append(("salt", salt))
    keys += [("embeds", key) for key in _embeds_keys(request, start_token_idx, end_token_idx)]
    return (tuple(keys) if keys else None), next_mm


def _adapter_id(lora: Any) -> Any:
    """Return `adapter_id` of an adapter, else `lora_int_id`, else None."""
    known = getattr(lora, "adapter_id", None)
    return getattr(lora, "lora_int_id", None) if known is None else known


def _mask(position: Any, start: int, end: int) -> bytes | None:
    """Return a byte for each token of an item in [start, end), 1 if it is an embedding; None if all are."""
    mask = getattr(position, "is_embed", None)
    if mask is None:
        return None
    part = mask[max(0, start - position.offset) : end - position.offset]
    flags = np.asarray(part.detach().cpu() if hasattr(part, "detach") else part).astype(np.bool_)
    return None if flags.all() else flags.tobytes()
