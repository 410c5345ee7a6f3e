"""Extra keys: what besides the tokens makes two blocks different (LoRA, multimodal items, salt, embeds).

Requests are duck-typed: `lora_request`, `mm_features`, `cache_salt`, `prompt_embeds` may be missing.
"""

import hashlib
import reprlib
from collections.abc import Callable
from typing import Any

import numpy as np

from kvgpu.errors import ArgumentError, ArgumentTypeError

ExtraKeys = tuple[Any, ...] | None


def written_alike(extra: ExtraKeys, other: ExtraKeys) -> bool:
    """Whether two extra keys are known to be serialised to the same bytes.

    So are none, and one plain string; 1 and True are equal and written differently, a subclass of `str` may equal a
    plain one, and pickle refers to what came before.
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
    """What a serialiser writes for extra keys.

    Raises:
        ArgumentTypeError: It cannot write them: an object that it does not know, or text that is none.
    """
    try:
        return bytes(serialise(value, **options))
    except MemoryError:
        raise
    except Exception as error:
        raise unwritten(value, error) from error


def unwritten(value: Any, error: Exception) -> ArgumentTypeError:
    """What to raise where a serialiser has failed."""
    return ArgumentTypeError(f"extra keys {reprlib.repr(value)} cannot be serialised, and so not be hashed: {error}")


def need_extra_keys(request: Any) -> bool:
    """True if some block of the request may have extra keys."""
    return bool(
        getattr(request, "mm_features", None)
        or getattr(request, "lora_request", None) is not None
        or getattr(request, "cache_salt", None) is not None
        or getattr(request, "prompt_embeds", None) is not None
    )


def check_text(name: str, text: Any) -> None:
    """See that text can be written to messages and events.

    Raises:
        ArgumentError: It has half of a surrogate pair, as a client's JSON can: ``"\\ud800"``.

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
    """See that all text that becomes extra keys of a request can be hashed and published.

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
    """Every multimodal item that overlaps tokens [start, end), and its offset within the block.

    The offset is negative for an item that began in an earlier block. `cursor` is the first item
    that may still matter; the new cursor is returned with the keys. A cursor of -1 means the last
    item (fact 6).
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
    """SHA-256 of the prompt embeddings of tokens [start, end), computed once per range."""
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
    """Bytes of a torch tensor of any dtype, in row order."""
    import torch

    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data if flat.numel() else b""


def generate_block_hash_extra_keys(
    request: Any, start_token_idx: int, end_token_idx: int, start_mm_idx: int
) -> tuple[ExtraKeys, int]:
    """Extra keys of the block of tokens [start_token_idx, end_token_idx).

    Args:
        request: The request.
        start_token_idx: First token of the block.
        end_token_idx: Token after the last.
        start_mm_idx: Multimodal item to begin with: 0, what the call for the block before
            returned, or -1 for the last item.

    Returns:
        A tuple of keys in the order LoRA name, multimodal items, salt (first block only), prompt
        embeddings; None if there are none; and the item to begin with next time.
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
    """Extra keys of a block that say what they are, so that those of one kind never equal those of another.

    Args:
        request, start_token_idx, end_token_idx, start_mm_idx: As in `generate_block_hash_extra_keys`.

    Returns:
        A tuple, in the same order, of ``("lora", name, adapter id)``, ``("mm", identifier, offset within the block,
        mask)``, ``("salt", salt)`` and ``("embeds", SHA-256)``; None if there are none; and the item to begin with
        next time. The adapter id is None where the adapter has none. The mask tells which of the item's tokens in
        this block are embeddings, a byte each, from `mm_position.is_embed`; None where all are.
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
    known = getattr(lora, "adapter_id", None)
    return getattr(lora, "lora_int_id", None) if known is None else known


def _mask(position: Any, start: int, end: int) -> bytes | None:
    """Which tokens of an item in [start, end) are embeddings, a byte each; None for all."""
    mask = getattr(position, "is_embed", None)
    if mask is None:
        return None
    part = mask[max(0, start - position.offset) : end - position.offset]
    flags = np.asarray(part.detach().cpu() if hasattr(part, "detach") else part).astype(np.bool_)
    return None if flags.all() else flags.tobytes()
