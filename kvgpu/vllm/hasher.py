"""Block hashes for requests of vLLM: the same lists of bytes, with long prompts hashed in bulk."""

import logging
from collections.abc import Callable
from dataclasses import replace
from inspect import signature
from types import SimpleNamespace
from typing import Any, cast

from vllm.utils import hashing as hashing_of_vllm
from vllm.v1.core import kv_cache_utils

from kvgpu.config.behaviour import BEHAVIOUR_0_23, Behaviour
from kvgpu.environment import vllm_mode
from kvgpu.errors import ConfigError, KVGPUError
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.inputs.extra_keys import need_extra_keys
from kvgpu.hashing.one_chain import prepare_chain
from kvgpu.hashing.request_hasher import RequestBlockHasher
from kvgpu.integers import shown
from kvgpu.native import hash_blocks

logger = logging.getLogger(__name__)

Hasher = Callable[[Any], list[bytes]]

FEW_BLOCKS = 48
"""Up to so many new blocks, arrays cost more than they save."""


def own_function(hash_fn: Any) -> hashing.HashFunction | None:
    """Return kvgpu's function that computes the same as a hash function of vLLM; None for any other function. O(1)."""
    for name, ours in hashing.HASH_FUNCTIONS.items():
        if hash_fn is getattr(hashing_of_vllm, name, None):
            return ours
    return None


def behaviour_of_keys() -> Behaviour:
    """Return whose extra keys the vLLM that is installed makes, found by what it has. O(1)."""
    return replace(
        BEHAVIOUR_0_23,
        tags_extra_keys=hasattr(kv_cache_utils, "to_event_extra_keys"),
        finds_items=hasattr(kv_cache_utils, "get_mm_features_in_window"),
    )


def get_request_block_hasher(hash_block_size: int, caching_hash_fn: Any, num_hash_lookahead_tokens: int = 0) -> Hasher:
    """Make a function that computes the missing hashes of a request of vLLM, as vLLM's function of this name does.

    Args:
        hash_block_size: Tokens per hash block.
        caching_hash_fn: Hash function; one that is not vLLM's own is called block by block, by vLLM.
        num_hash_lookahead_tokens: Tokens after a block that its hash covers, too (fact B6); only vLLM from 0.33 on has
            hashes with any.

    The function takes a request and returns its new hashes, which the request appends: O(new blocks), and O(1)
    without a new block. With `KVGPU_VLLM=check` it returns vLLM's hashes, and logs the first that is different.

    Raises:
        ConfigError: Look-ahead is asked for, and this vLLM knows none.
    """
    block_size, lookahead = hash_block_size, num_hash_lookahead_tokens
    make: Any = kv_cache_utils.get_request_block_hasher
    if lookahead and "num_hash_lookahead_tokens" not in signature(make).parameters:
        raise ConfigError(f"this vLLM makes no hashes with look-ahead, and {shown(lookahead)} tokens are asked for")
    theirs: Hasher = make(block_size, caching_hash_fn, *([lookahead] if lookahead else []))
    own = own_function(caching_hash_fn)
    if own is None:
        logger.warning("vLLM hashes blocks, since kvgpu does not know the function %s", shown(caching_hash_fn))
        return theirs
    in_bulk = RequestBlockHasher(block_size, own, behaviour=behaviour_of_keys(), num_hash_lookahead_tokens=lookahead)
    chain = prepare_chain(own, block_size, lookahead)
    # Compiled, or loaded from the cache of compiled code, before the first prompt is there.
    many = 2 * FEW_BLOCKS * block_size
    hashing.NONE_HASH = getattr(kv_cache_utils, "NONE_HASH", hashing.BlockHash(bytes(32)))
    in_bulk(SimpleNamespace(block_hashes=[], all_token_ids=[0] * many, num_tokens=many))

    def hashes(request: Any) -> list[bytes]:
        known, tokens = request.block_hashes, request._all_token_ids
        start, num_tokens = len(known) * block_size, len(tokens)
        if start + block_size + lookahead > num_tokens:
            return []
        num_new = (num_tokens - lookahead - start) // block_size
        has_extra = need_extra_keys(request)
        parent, new = known[-1] if known else kv_cache_utils.NONE_HASH, []
        if chain is not None and not has_extra:
            made = hash_blocks(chain, tokens, start, num_new, parent)
            if made is not NotImplemented:
                return made
        if num_new > FEW_BLOCKS:
            # vLLM chooses it when an engine starts, perhaps after this function was made.
            hashing.NONE_HASH = kv_cache_utils.NONE_HASH
            # The list itself: a slice of what vLLM wraps it in is a copy of all tokens.
            plain = SimpleNamespace(
                request_id=request.request_id, block_hashes=known, all_token_ids=tokens, num_tokens=num_tokens
            )
            try:
                return cast(list[bytes], in_bulk(request if has_extra else plain))
            except KVGPUError:  # vLLM hashes more than kvgpu accepts, for example half a surrogate pair
                return theirs(request)
        if has_extra:
            return theirs(request)
        for begin in range(start, start + num_new * block_size, block_size):
            end = begin + block_size
            extra = (None, *tokens[end : end + lookahead]) if lookahead else None
            parent = caching_hash_fn((parent, tuple(tokens[begin:end]), extra))
            new.append(parent)
        return new

    return _checked(theirs, hashes) if vllm_mode() == "check" else hashes


def _checked(theirs: Hasher, ours: Hasher) -> Hasher:
    """A hasher that returns vLLM's hashes, and logs the first difference."""
    differs = False

    def hashes(request: Any) -> list[bytes]:
        nonlocal differs
        expected = theirs(request)
        if not differs:
            try:
                got: Any = ours(request)
            except Exception as error:
                got = error
            if got != expected:
                differs = True
                logger.error(
                    "kvgpu hashes request %s otherwise than vLLM, after %d hashes: %s, vLLM %s",
                    request.request_id,
                    len(request.block_hashes),
                    shown(got),
                    shown(expected),
                )
        return expected

    return hashes
