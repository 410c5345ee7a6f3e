"""How many blocks are hashed with a hash function, and what it promises."""

import hashlib
from functools import cache

from kvgpu.hashing import functions as hashing
from kvgpu.hashing.bulk.chains import Chains
from kvgpu.hashing.functions import HashFunction
from kvgpu.hashing.kvgpu128.function import Kvgpu128, process_hash
from kvgpu.hashing.serialised.chains import message_chains
from kvgpu.hashing.serialised.messages import CBOR, PICKLE


def chains_of(hash_fn: HashFunction) -> Chains | None:
    """How to hash many blocks with this function; None for a function that is not known here. O(1)."""
    if isinstance(hash_fn, Kvgpu128):
        return hash_fn
    if hash_fn is hashing.kvgpu128:
        return process_hash()
    for name in ("sha256", "sha256_cbor", "xxhash", "xxhash_cbor"):
        if hash_fn is getattr(hashing, name):
            return chains_called(name)
    return None


@cache
def chains_called(name: str) -> Chains | None:
    """Chains of a hash function of vLLM."""
    kind = CBOR if name.endswith("cbor") else PICKLE
    if name.startswith("sha256"):
        return message_chains(kind, lambda data: hashlib.sha256(data).digest(), 32)
    import xxhash

    return message_chains(kind, xxhash.xxh3_128_digest, 16)


def links(hash_fn: HashFunction) -> bool:
    """Whether nobody can find two prefixes that have the same hash: then it says all that came before. O(1)."""
    known = (hashing.sha256, hashing.sha256_cbor, hashing.kvgpu128)
    return isinstance(hash_fn, Kvgpu128) or any(hash_fn is each for each in known)
