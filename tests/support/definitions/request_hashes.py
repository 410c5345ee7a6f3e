"""Hashes of a request as facts B2, B4 and B6 state them: block by block, with keys found by looking at every item."""

import hashlib
from types import SimpleNamespace

from support.hashed_requests import item

from kvgpu.hashing import functions as hashing


def lora(name="ad", path="/p", adapter_id=1):
    return SimpleNamespace(lora_name=name, lora_path=path, adapter_id=adapter_id)


KEYS_OF = {
    "0.23": (lambda each: each.lora_name, lambda *key: key, lambda salt: salt, lambda digest: digest),
    "0.33": (
        lambda each: ("lora", each.lora_name, each.lora_path),
        lambda *key: ("mm", *key),
        lambda salt: ("cache_salt", salt),
        lambda digest: ("prompt_embeds", digest),
    ),
    "own": (
        lambda each: ("lora", each.lora_name, each.adapter_id),
        lambda *key: ("mm", *key, None),
        lambda salt: ("salt", salt),
        lambda digest: ("embeds", digest),
    ),
}
"""By whose keys they are: what stands for an adapter, an item, a salt and embeddings."""


def restated_keys(attributes, kind, start, stop):
    """Extra keys of tokens [start, stop), of which the first are a block."""
    of_lora, of_item, of_salt, of_embeds = KEYS_OF[kind]
    keys = []
    if attributes.get("lora_request"):
        keys.append(of_lora(attributes["lora_request"]))
    for each in attributes.get("mm_features", ()):
        place = each.mm_position
        if place.offset < stop and place.offset + place.length > start:
            keys.append(of_item(each.identifier, place.offset - start))
    if start == 0 and attributes.get("cache_salt"):
        keys.append(of_salt(attributes["cache_salt"]))
    if attributes.get("prompt_embeds") is not None:
        keys.append(of_embeds(hashlib.sha256(attributes["prompt_embeds"][start:stop].tobytes()).digest()))
    return tuple(keys) or None


def restated(function, tokens, size, lookahead=0, attributes=None, kind="0.33", parent=None):
    """Hashes of all blocks that have one."""
    hashes, parent = [], parent or hashing.none_hash()
    for start in range(0, len(tokens) - lookahead - size + 1, size):
        end = start + size
        extra = restated_keys(attributes or {}, kind, start, end + lookahead)
        if lookahead:
            extra = (extra, *tokens[end : end + lookahead])
        parent = function((parent, tuple(tokens[start:end]), extra))
        hashes.append(parent)
    return hashes


def items_of(*places):
    """Multimodal items at (identifier, offset, length)."""
    return [item(*place) for place in places]
