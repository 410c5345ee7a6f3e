"""Digests of prompt embeddings, which stand for them among the extra keys of a block."""

import hashlib
from typing import Any

import numpy as np


def embeds_digests(request: Any, start: int, end: int) -> list[bytes]:
    """Hash the prompt embeddings of tokens [start, end) with SHA-256, once per range; an empty list if none exist.

    O(bytes).
    """
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
