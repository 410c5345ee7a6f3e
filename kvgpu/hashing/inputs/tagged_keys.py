"""Extra keys that say of which kind they are: those of vLLM, and those of kvgpu; and what events show of them."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from kvgpu.hashing.inputs.extra_keys import ExtraKeys
from kvgpu.hashing.inputs.mm_items import overlapping_items
from kvgpu.hashing.inputs.prompt_embeds import embeds_digests


def generate_vllm_tagged_keys(
    request: Any, start_token_idx: int, end_token_idx: int, start_mm_idx: int
) -> tuple[ExtraKeys, int]:
    """Generate extra keys with the tags that vLLM gives them, and with the path of an adapter (fact B2).

    Args:
        request, start_token_idx, end_token_idx, start_mm_idx: As in `generate_block_hash_extra_keys`.

    Returns:
        A tuple, in this order, of ``("lora", name, path)``, ``("mm", identifier, offset within the block)`` of each
        item, ``("cache_salt", salt)`` in the first block, and ``("prompt_embeds", SHA-256)``, or None if there are
        none; and the item to begin with for the next block. The path is None if the adapter has none.

    O(items of the block).
    """
    items, next_mm = overlapping_items(request, start_token_idx, end_token_idx, start_mm_idx)
    lora = getattr(request, "lora_request", None)
    keys: list[Any] = [("lora", lora.lora_name, getattr(lora, "lora_path", None))] if lora else []
    keys += [("mm", item.identifier, offset) for item, offset in items]
    salt = getattr(request, "cache_salt", None)
    if start_token_idx == 0 and salt:
        keys.append(("cache_salt", salt))
    keys += [("prompt_embeds", key) for key in embeds_digests(request, start_token_idx, end_token_idx)]
    return (tuple(keys) if keys else None), next_mm


def to_event_extra_keys(extra_keys: Iterable[ExtraKeys] | None) -> list[ExtraKeys] | None:
    """Convert keys that vLLM tags to what events show, which has no tags (fact B3).

    Args:
        extra_keys: For each block, what `generate_vllm_tagged_keys` returned; None for no blocks.

    Returns:
        For each block its keys in order, an item as ``(identifier, offset)``, of the others the name, salt or digest; a
        block without keys has None. None if there are no blocks.

    O(keys).
    """
    shown = [
        None if keys is None else tuple(key[1:] if key[0] == "mm" else key[1] for key in keys)
        for keys in extra_keys or ()
    ]
    return shown or None


def generate_tagged_extra_keys(
    request: Any, start_token_idx: int, end_token_idx: int, start_mm_idx: int
) -> tuple[ExtraKeys, int]:
    """Generate extra keys with tags of kvgpu's own, which tell more apart than those of vLLM.

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
    items, next_mm = overlapping_items(request, start_token_idx, end_token_idx, start_mm_idx)
    lora = getattr(request, "lora_request", None)
    keys: list[Any] = [("lora", lora.lora_name, _adapter_id(lora))] if lora else []
    for item, offset in items:
        mask = _mask(item.mm_position, start_token_idx, end_token_idx)
        keys.append(("mm", item.identifier, offset, mask))
    salt = getattr(request, "cache_salt", None)
    if start_token_idx == 0 and salt:
        keys.append(("salt", salt))
    keys += [("embeds", key) for key in embeds_digests(request, start_token_idx, end_token_idx)]
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
