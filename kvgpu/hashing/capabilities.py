"""What a hash function can do: hash in bulk, and resist collisions."""

import hashlib
from functools import cache

from kvgpu.hashing import functions as hashing
from kvgpu.hashing.bulk.chains import Chains
from kvgpu.hashing.functions import HashFunction
from kvgpu.hashing.kvgpu128.function import Kvgpu128, process_hash
from kvgpu.hashing.serialised.chains import message_chains
from kvgpu.hashing.serialised.messages import CBOR, PICKLE


def chains_of(hash_fn: HashFunction) -> Chains | None:
    """Return the `Chains` that hash many blocks with this function; None if they must be hashed one by one. O(1)."""
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
    """Chains for a hash function of vLLM."""
    kind = CBOR if name.endswith("cbor") else PICKLE
    if name.startswith("sha256"):
        return message_chains(kind, lambda data: hashlib.sha256(data).digest(), 32)
    import xxhash

    return message_chains(kind, xxhash.xxh3_128_digest, 16)


def is_collision_resistant(hash_fn: HashFunction) -> bool:
    """Whether nobody can find two prefixes with the same hash, so that equal hashes imply equal prefixes. O(1)."""
    known = (hashing.sha256, hashing.sha256_cbor, hashing.kvgpu128)
    return isinstance(hash_fn, Kvgpu128) or any(hash_fn is each for each in known)
