"""Requests of all kinds for the tests of `RequestBlockHasher`, and the extra keys that their blocks have."""

import hashlib
from enum import IntEnum
from types import SimpleNamespace

import numpy as np
import pytest

from kvgpu.hashing import functions as hashing
from kvgpu.hashing.functions import HASH_FUNCTIONS
from kvgpu.hashing.kvgpu128.function import Kvgpu128
from kvgpu.request import Request

FUNCTIONS = {**HASH_FUNCTIONS, "a key of its own": Kvgpu128(bytes(range(32)))}
SERIALISED = ["sha256", "sha256_cbor", "xxhash", "xxhash_cbor"]
PICKLED = ["sha256", "xxhash"]
KEYED = ["kvgpu128", "a key of its own"]

MANY = 40
"""Blocks: more than are needed for hashing in bulk to pay."""

EDGES = [0, 23, 24, 255, 256, 65535, 65536, 2**31 - 1, -1, -256, -(2**31)]
WIDE_EDGES = [2**31, 2**32 - 1, 2**32, 2**63 - 1, -(2**31) - 1, -(2**63), 7, 2**55]

by_function = pytest.mark.parametrize("name", FUNCTIONS)
by_size = pytest.mark.parametrize("size", [1, 3, 16])
by_blocks = pytest.mark.parametrize("blocks", [2, MANY], ids=["few", "many"])


class Color(IntEnum):
    RED = 3


def drawn_tokens(count, seed=1, edges=EDGES):
    """Token ids of 32 bits of all sizes, as plain integers, with as many edges as there is room for."""
    rng = np.random.default_rng(seed)
    tokens = (rng.integers(0, 2**31, count) >> rng.integers(0, 31, count)).tolist()
    tokens[2 : 2 + len(edges)] = edges[: max(0, count - 2)]
    return tokens[:count]


def item(identifier, offset, length):
    position = SimpleNamespace(offset=offset, length=length)
    return SimpleNamespace(identifier=identifier, mm_position=position)


def kinds_of_extras(size, blocks):
    """Attributes of requests, by what they have besides tokens."""
    tokens = size * blocks
    return {
        "salt": {"cache_salt": "salt"},
        "LoRA": {"lora_request": SimpleNamespace(lora_name="lora", adapter_id=1)},
        "items": {
            "mm_features": [
                item("first", 0, 1),
                item("long", 1, tokens // 2),
                item("twice", tokens // 2 + 1, 1),
                item("twice", tokens // 2 + 2, max(1, tokens // 4)),
            ]
        },
        "an item in the middle": {"mm_features": [item("middle", tokens // 2, size + 1)]},
        "embeddings": {"prompt_embeds": np.arange(2 * (tokens + 1), dtype=np.float32).reshape(-1, 2)},
    }


def everything(size, blocks):
    kinds = kinds_of_extras(size, blocks)
    return kinds["salt"] | kinds["LoRA"] | kinds["items"] | kinds["embeddings"]


def is_tagged(name):
    """Whether the function of this name hashes extra keys that say of which kind they are."""
    return name in KEYED


def salted(name, salt):
    """Extra keys of the first block of a request that has this salt."""
    return ("salt", salt) if is_tagged(name) else salt


def extras_of(name, attributes, size, blocks):
    """Extra keys of each block, as the function of this name takes them: LoRA name, items, salt, embeddings."""
    extras = []
    for start in range(0, size * blocks, size):
        end, keys = start + size, []
        if "lora_request" in attributes:
            lora = attributes["lora_request"]
            keys.append(("lora", lora.lora_name, lora.adapter_id) if is_tagged(name) else lora.lora_name)
        for each in attributes.get("mm_features", []):
            place = each.mm_position
            if place.offset < end and place.offset + place.length > start:
                key = (each.identifier, place.offset - start)
                keys.append(("mm", *key, None) if is_tagged(name) else key)
        if start == 0 and attributes.get("cache_salt"):
            keys.append(salted(name, attributes["cache_salt"]))
        if "prompt_embeds" in attributes:
            key = hashlib.sha256(attributes["prompt_embeds"][start:end].tobytes()).digest()
            keys.append(("embeds", key) if is_tagged(name) else key)
        extras.append(tuple(keys) or None)
    return extras


def unhashed(name, tokens, **attributes):
    """A request whose blocks nobody has hashed."""
    return Request(name, tokens, **attributes)


SOURCES = {
    "list": list,
    "int32": lambda tokens: np.array(tokens, np.int32),
    "int64": lambda tokens: np.array(tokens, np.int64),
    "every second of an array": lambda tokens: np.repeat(np.array(tokens, np.int32), 2)[::2],
}


class Failing:
    """sha256, which raises at its call number `at`."""

    def __init__(self, fault):
        self.fault, self.at, self.calls = fault, None, 0

    def __call__(self, value):
        self.calls += 1
        if self.calls - 1 == self.at:
            raise self.fault("on purpose")
        return hashing.sha256(value)
