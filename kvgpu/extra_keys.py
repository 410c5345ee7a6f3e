"""Extra keys: what besides the tokens makes two blocks different (LoRA, multimodal items, salt, embeds).

Requests are duck-typed: `lora_request`, `mm_features`, `cache_salt`, `prompt_embeds` may be missing.
"""

import hashlib
from typing import Any

import numpy as np

ExtraKeys = tuple[Any, ...] | None


def written_alike(extra: ExtraKeys) -> bool:
    """Whether all extra keys that equal these are serialised to the same bytes.

    So are none, and one plain string; 1 and True are equal and written differently, and pickle refers to what
    came before.
    """
    return extra is None or (len(extra) == 1 and type(extra[0]) is str)


def need_extra_keys(request: Any) -> bool:
    """True if some block of the request may have extra keys."""
    return bool(
        getattr(request, "mm_features", None)
        or getattr(request, "lora_request", None) is not None
        or getattr(request, "cache_salt", None) is not None
        or getattr(request, "prompt_embeds", None) is not None
    )


def _mm_keys(request: Any, start: int, end: int, cursor: int) -> tuple[list[Any], int]:
    """(identifier, offset within the block) of every item that overlaps tokens [start, end).

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
    keys: list[Any] = []
    while cursor < len(features):
        position = features[cursor].mm_position
        if position.offset >= end:
            break
        item_end = position.offset + position.length
        if item_end > start:
            keys.append((features[cursor].identifier, position.offset - start))
            if item_end > end:
                break
        cursor += 1
    return keys, cursor


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
    mm_keys, next_mm = _mm_keys(request, start_token_idx, end_token_idx, start_mm_idx)
    lora = getattr(request, "lora_request", None)
    keys: list[Any] = [lora.lora_name] if lora else []
    keys += mm_keys
    salt = getattr(request, "cache_salt", None)
    if start_token_idx == 0 and salt:
        keys.append(salt)
    keys += _embeds_keys(request, start_token_idx, end_token_idx)
    return (tuple(keys) if keys else None), next_mm
