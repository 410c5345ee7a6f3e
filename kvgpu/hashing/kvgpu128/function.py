"""kvgpu128: a keyed hash of 128 bits whose blocks are hashed independently of each other.

What it computes, why, and what it promises: docs/hashing.md.
"""

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.config import hash_key
from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.hashing.bulk.chains import Blocks, Rows, located
from kvgpu.hashing.bulk.hash_memory import hash_memory
from kvgpu.hashing.bulk.threads import in_threads
from kvgpu.hashing.inputs.extra_keys import ExtraKeys, written, written_alike
from kvgpu.hashing.inputs.token_arrays import Tokens, plain_tokens, token_array
from kvgpu.hashing.kvgpu128 import universal
from kvgpu.hashing.kvgpu128.field import PRIME
from kvgpu.hashing.kvgpu128.speck import KEY_BYTES as MIX_KEY_BYTES
from kvgpu.hashing.kvgpu128.speck import round_keys
from kvgpu.layout import TOKEN_WORDS

KEY_BYTES = 32
WIDTH = 16
FEWEST_OF_THREAD = 4096
"""Blocks of a thread for which it pays to wake it (measured: 2,048 take longer so, 4,096 a sixth less)."""

_POINT_BYTES = 16
_DIGEST_KEY_BYTES = 32
_HEAD_BYTES = MIX_KEY_BYTES + _POINT_BYTES + _DIGEST_KEY_BYTES
_WORD_BYTES = 16

_OUTSIDE = "kvgpu128 hashes token ids from -2**31 to 2**31 - 1"
_NO_EXTRAS = np.zeros((0, 3), np.uint64)


class Kvgpu128:
    """The hash function under one key; call it like any of `kvgpu.hashing.functions`, or `rows` for many blocks.

    What it computes and promises: docs/hashing.md. Its parts: SHAKE-256 (FIPS 202) for the keys, BLAKE2b
    (RFC 7693) of CBOR (RFC 8949) for extra keys, Speck128/256 (IACR ePrint 2013/404) for the last step.

    Args:
        key: Secret, 32 bytes. Processes that share hashes need the same one.

    Attributes:
        width: Bytes of a hash.

    Raises:
        ArgumentError: A key of another length.
        ArgumentTypeError: A key that is not bytes.

    Construction is O(1).
    """

    width = WIDTH

    def __init__(self, key: bytes) -> None:
        if not isinstance(key, bytes):
            raise ArgumentTypeError(f"a key of {KEY_BYTES} bytes is expected, got {type(key).__name__}")
        if len(key) != KEY_BYTES:
            raise ArgumentError(f"a key of {KEY_BYTES} bytes is expected, got {len(key)} bytes")
        self._stream = hashlib.shake_256(b"kvgpu128" + key)
        head = self._stream.digest(_HEAD_BYTES)
        self.mix_keys = round_keys(head[:MIX_KEY_BYTES])
        # Below 2**126, and so within the field.
        point = int.from_bytes(head[MIX_KEY_BYTES:][:_POINT_BYTES], "little") >> 2
        self.point = np.array([point & ((1 << 64) - 1), point >> 64], np.uint64)
        self._digest_key = head[MIX_KEY_BYTES + _POINT_BYTES :]
        self._keys = np.zeros((0, 2), np.uint64)
        self._root: tuple[bytes | None, npt.NDArray[np.uint64]] = None, np.zeros((1, 2), np.uint64)
        """The parent that many calls had in common, as that of new prompts, and its element."""
        self._last: bytes | None = None
        """The parent of the last call that had only one."""

    def keys(self, num_tokens: int) -> npt.NDArray[np.uint64]:
        """Keys of the words of blocks of so many tokens, and maybe more behind: uint64 [>= words, 2].

        O(1) once they are made, O(num_tokens) before.
        """
        count = TOKEN_WORDS + (num_tokens + 1) // 2
        # Another thread may store fewer at any time.
        keys = self._keys
        if count > len(keys):
            stream = self._stream.digest(_HEAD_BYTES + _WORD_BYTES * 2 * count)[_HEAD_BYTES:]
            limbs = np.frombuffer(stream, "<u8").reshape(-1, 2)
            self._keys = keys = limbs >> np.uint64(64 - universal.LIMB_BITS)
        return keys

    def none_hash(self) -> bytes:
        """What stands before the first block where no seed says so: 16 bytes, the same wherever the key is. O(1)."""
        return self._digest(b"none", b"")

    def states(self, parents: Sequence[bytes]) -> npt.NDArray[np.uint64]:
        """The elements that parents stand for, uint64 [n, 2]; parents of any length have one. O(n)."""
        root, element = self._root
        if parents.count(root) == len(parents):
            return element if len(parents) == 1 else np.full((len(parents), 2), element)
        places: dict[bytes, int] = {}
        at = [places.setdefault(parent, len(places)) for parent in parents]
        data = bytearray().join(parent[:WIDTH].ljust(WIDTH, b"\0") for parent in places)
        words = np.frombuffer(data, "<u8").reshape(-1, 2)
        states: npt.NDArray[np.uint64] = universal.unmix(words, self.mix_keys)
        for parent, place in places.items():
            if len(parent) != WIDTH:
                value = int.from_bytes(self._digest(b"parent", parent), "little") % PRIME
                states[place] = value & ((1 << 64) - 1), value >> 64
        if len(places) == 1:
            if len(at) > 1 or self._last == parents[0]:
                self._root = parents[0], states
            self._last = parents[0]
        return states if len(places) == len(at) else states[at]

    def _digest(self, purpose: bytes, data: bytes) -> bytes:
        return hashlib.blake2b(data, digest_size=WIDTH, key=self._digest_key, person=purpose).digest()

    def extra_words(self, extras: Sequence[ExtraKeys]) -> npt.NDArray[np.uint64]:
        """Digests of the extra keys of blocks and 1, or 0 three times where there are none: uint64 [blocks, 3].

        O(blocks + bytes of the extra keys).
        """
        import cbor2

        words = np.zeros((len(extras), 3), np.uint64)
        last: ExtraKeys = None
        digest = words[:0]
        for place, extra in enumerate(extras):
            if extra is None:
                continue
            if not written_alike(extra, last):
                last = extra
                data = self._digest(b"extra", written(cbor2.dumps, extra, canonical=True))
                digest = np.frombuffer(data, "<u8")
            words[place, :2], words[place, 2] = digest, 1
        return words

    def pays(self, counts: Sequence[int]) -> bool:
        """See `Chains`: one by one is the same call. O(len(counts))."""
        return sum(counts) > 0

    @staticmethod
    def check(tokens: Tokens) -> None:
        """See that tokens can be hashed.

        Raises:
            ArgumentError: A token that does not fit into 32 bits.

        O(tokens).
        """
        if tokens.dtype != np.int32 and not universal.all_fit(tokens.reshape(-1)):
            raise ArgumentError(_OUTSIDE)

    def rows(self, blocks: Blocks, threads: int = 1) -> Rows:
        """Hashes of blocks as key words int64 [blocks, KEY_WORDS]; see `Chains`.

        Raises:
            ArgumentError: A token that does not fit into 32 bits, or blocks that reach beyond their tokens.
            ArgumentTypeError: `Blocks` of other kinds, or extra keys that CBOR cannot write.

        O(tokens).
        """
        kept, arrays, like, counts = located(blocks)
        if like.itemsize > 4:
            for tokens in kept:
                self.check(tokens)
        extras = _NO_EXTRAS if blocks.extras is None else self.extra_words(blocks.extras)
        out = hash_memory.take(blocks.total)
        words = out.view(np.uint64)
        states, keys = self.states(blocks.parents), self.keys(blocks.size)

        def hash_part(first: int, last: int, base: int, _kept: Any = kept) -> None:
            universal.hash_chains(
                like,
                arrays,
                counts,
                first,
                last,
                base,
                blocks.size,
                states,
                extras,
                keys,
                self.point,
                self.mix_keys,
                words,
            )

        in_threads(blocks.counts, threads, FEWEST_OF_THREAD, hash_part)
        return out

    def __call__(self, input: Any) -> bytes:
        """Hash of ``(parent, tokens, extra keys or None)``: 16 bytes, those that `rows` gives. O(tokens).

        Anything else that CBOR can write has a hash, too, of no relation to these.

        Raises:
            ArgumentError: A token that does not fit into 32 bits.
            ArgumentTypeError: Tokens that are not integers, or something that CBOR cannot write.
        """
        if isinstance(input, tuple) and len(input) == 3 and isinstance(input[0], bytes) and isinstance(input[1], tuple):
            parent, tokens, extra = bytes(input[0]), checked_tokens(input[1]), input[2]
            extras = None if extra is None else [extra]
            row = self.rows(Blocks([tokens], [1], 1, len(tokens), [parent], extras))
            return row.tobytes()[:WIDTH]
        import cbor2

        return self._digest(b"other", written(cbor2.dumps, input, canonical=True))


def checked_tokens(tokens: Any) -> Tokens:
    """Tokens as an array.

    Raises:
        ArgumentError, ArgumentTypeError: As in `Kvgpu128.__call__`.
    """
    ids = token_array(tokens)
    if ids is not None:
        return ids
    if all(type(token) is int for token in plain_tokens(tokens)):
        raise ArgumentError(_OUTSIDE)
    raise ArgumentTypeError("kvgpu128 hashes token ids that are integers, no truth values")


@cache
def process_hash() -> Kvgpu128:
    """kvgpu128 under the key of this process: that of `KVGPU_HASH_KEY`, else a random one."""
    return Kvgpu128(hash_key())
