"""`Kvgpu128`: a keyed hash of 128 bits, most of which is computed for each block independently of the others.

docs/hashing.md has its definition, the reasons for it, and its guarantees.
"""

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.environment import hash_key
from kvgpu.errors import ArgumentError, ArgumentTypeError, ConfigError
from kvgpu.hashing.bulk.chains import Blocks, Keys, located
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
MIN_BLOCKS_PER_THREAD = 4096
"""Blocks per thread from which on it is worth waking (measured: 2,048 take longer, 4,096 a sixth less time)."""

_POINT_BYTES = 16
_DIGEST_KEY_BYTES = 32
_HEAD_BYTES = MIX_KEY_BYTES + _POINT_BYTES + _DIGEST_KEY_BYTES
_WORD_BYTES = 16

_OUT_OF_RANGE = "kvgpu128 hashes token ids from -2**31 to 2**31 - 1"
_NO_EXTRAS = np.zeros((0, 3), np.uint64)


class Kvgpu128:
    """The hash function under one key. Call it like those of `kvgpu.hashing.functions`, or `hashes` for many blocks.

    See docs/hashing.md. It is made of SHAKE-256 (FIPS 202) for the keys, BLAKE2b (RFC 7693) of CBOR (RFC 8949) for
    extra keys, and Speck128/256 (IACR ePrint 2013/404) for the last step.

    Args:
        key: Secret, 32 bytes. Processes that share hashes need the same key.

    Attributes:
        width: Bytes of a hash.

    Raises:
        ArgumentError: The key has another length.
        ArgumentTypeError: The key is not bytes.

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
        # Shifted below 2**126, and so within the field.
        point = int.from_bytes(head[MIX_KEY_BYTES:][:_POINT_BYTES], "little") >> 2
        self.point = np.array([point & ((1 << 64) - 1), point >> 64], np.uint64)
        self._digest_key = head[MIX_KEY_BYTES + _POINT_BYTES :]
        self._word_keys = np.zeros((0, 2), np.uint64)
        self._root: tuple[bytes | None, npt.NDArray[np.uint64]] = None, np.zeros((1, 2), np.uint64)
        """The parent that several calls had in common, such as that of new prompts, and its element."""
        self._last_parent: bytes | None = None
        """The parent of the last call with a single distinct one."""

    def word_keys(self, num_tokens: int) -> npt.NDArray[np.uint64]:
        """Return the keys for the words of a block, uint64 [>= words, 2]: two limbs for each word.

        Args:
            num_tokens: Tokens of a block, with those for look-ahead.

        O(1) once they exist, O(num_tokens) before.
        """
        count = TOKEN_WORDS + (num_tokens + 1) // 2
        # Read once, because another thread may store a shorter array at any time.
        keys = self._word_keys
        if count > len(keys):
            stream = self._stream.digest(_HEAD_BYTES + _WORD_BYTES * 2 * count)[_HEAD_BYTES:]
            limbs = np.frombuffer(stream, "<u8").reshape(-1, 2)
            self._word_keys = keys = limbs >> np.uint64(64 - universal.LIMB_BITS)
        return keys

    def none_hash(self) -> bytes:
        """Return the `NONE_HASH` that the key implies if there is no seed: 16 bytes. O(1)."""
        return self._digest(b"none", b"")

    def states(self, parents: Sequence[bytes]) -> npt.NDArray[np.uint64]:
        """Return the states of the prefixes that end with these parents, of any length: uint64 [n, 2]. O(n)."""
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
            if len(at) > 1 or self._last_parent == parents[0]:
                self._root = parents[0], states
            self._last_parent = parents[0]
        return states if len(places) == len(at) else states[at]

    def _digest(self, purpose: bytes, data: bytes) -> bytes:
        return hashlib.blake2b(data, digest_size=WIDTH, key=self._digest_key, person=purpose).digest()

    def extra_words(self, extras: Sequence[ExtraKeys]) -> npt.NDArray[np.uint64]:
        """Digest the extra keys of blocks.

        Returns:
            uint64 [blocks, 3]: the digest in two words and 1, or zeros for a block without extra keys.

        Raises:
            ArgumentTypeError: CBOR cannot write some extra keys.
            ConfigError: Extra keys with look-ahead tokens, which are no part of the digest.

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
                if split_lookahead(extra)[1]:
                    raise ConfigError("kvgpu128 takes look-ahead tokens as Blocks.lookahead, on the CPU only")
                data = self._digest(b"extra", written(cbor2.dumps, extra, canonical=True))
                digest = np.frombuffer(data, "<u8")
            words[place, :2], words[place, 2] = digest, 1
        return words

    def pays(self, counts: Sequence[int]) -> bool:
        """See `Chains`: True for any block, as a single one takes the same call. O(len(counts))."""
        return sum(counts) > 0

    @staticmethod
    def check(tokens: Tokens) -> None:
        """Check that tokens can be hashed.

        Raises:
            ArgumentError: A token does not fit into 32 bits.

        O(tokens).
        """
        if tokens.dtype != np.int32 and not universal.all_fit(tokens.reshape(-1)):
            raise ArgumentError(_OUT_OF_RANGE)

    def hashes(self, blocks: Blocks, threads: int = 1) -> Keys:
        """Hash blocks; see `Chains`.

        Args:
            blocks: Blocks of several requests.
            threads: At most this many threads hash them.

        Returns:
            Key words int64 [blocks, KEY_WORDS], request by request.

        Raises:
            ArgumentError: A token does not fit into 32 bits, or blocks reach beyond their tokens.
            ArgumentTypeError: A field of `blocks` has another type, or CBOR cannot write some extra keys.

        O(tokens).
        """
        owners, chains = located(blocks)
        if chains[0].itemsize > 4:
            for tokens in owners:
                self.check(tokens)
        extras = _NO_EXTRAS if blocks.extras is None else self.extra_words(blocks.extras)
        keys = hash_memory.take(blocks.total)
        words = keys.view(np.uint64)
        states = self.states(blocks.parents)
        secrets = self.word_keys(blocks.size + blocks.lookahead), self.point, self.mix_keys

        def hash_part(first: int, last: int, base: int, _owners: Any = owners) -> None:
            universal.hash_chains(chains, (first, last, base), states, extras, secrets, words)

        in_threads(blocks.counts, threads, MIN_BLOCKS_PER_THREAD, hash_part)
        return keys

    def __call__(self, input: Any) -> bytes:
        """Hash ``(parent, tokens, extra keys or None)`` to 16 bytes, the same as `hashes`.

        Extra keys of the form ``(extra keys or None, integer, ...)`` are those of a block with look-ahead: the integers
        are the tokens after it. Anything else that CBOR can write has a hash, too, which is unrelated to these.

        Raises:
            ArgumentError: A token does not fit into 32 bits.
            ArgumentTypeError: Tokens are not integers, or CBOR cannot write `input`.

        O(tokens).
        """
        if isinstance(input, tuple) and len(input) == 3 and isinstance(input[0], bytes) and isinstance(input[1], tuple):
            extra, following = split_lookahead(input[2])
            parent, tokens = bytes(input[0]), checked_tokens(input[1] + following)
            extras, size = None if extra is None else [extra], len(input[1])
            keys = self.hashes(Blocks([tokens], [1], 1, size, [parent], extras, lookahead=len(following)))
            return keys.tobytes()[:WIDTH]
        import cbor2

        return self._digest(b"other", written(cbor2.dumps, input, canonical=True))


def split_lookahead(extra: Any) -> tuple[Any, tuple[Any, ...]]:
    """Split what a block is hashed with into its extra keys and the tokens for look-ahead, of which there may be none.

    They are told from plain extra keys by their form, as no key is a number. O(length).
    """
    if type(extra) is not tuple or len(extra) < 2 or not (extra[0] is None or type(extra[0]) is tuple):
        return extra, ()
    following = extra[1:]
    if any(isinstance(each, bool) or not isinstance(each, int | np.integer) for each in following):
        return extra, ()
    return extra[0], following


def checked_tokens(tokens: Any) -> Tokens:
    """Return tokens as an array.

    Raises:
        ArgumentError, ArgumentTypeError: As in `Kvgpu128.__call__`.
    """
    ids = token_array(tokens)
    if ids is not None:
        return ids
    if all(type(token) is int for token in plain_tokens(tokens)):
        raise ArgumentError(_OUT_OF_RANGE)
    raise ArgumentTypeError("kvgpu128 hashes token ids that are integers, not truth values")


@cache
def process_hash() -> Kvgpu128:
    """Return kvgpu128 under the key of this process: that of `KVGPU_HASH_KEY`, else a random one."""
    return Kvgpu128(hash_key())
