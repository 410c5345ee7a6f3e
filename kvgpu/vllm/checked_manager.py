"""`CheckedManager`: vLLM's manager, with kvgpu's beside it that must give the same answers."""

import logging
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import msgspec

from kvgpu.blocks.kv_cache_blocks import KVCacheBlocks
from kvgpu.integers import shown
from kvgpu.manager import KVCacheManager
from kvgpu.metrics import PrefixCacheStats

logger = logging.getLogger(__name__)

COMPARED = (
    "allocate_slots",
    "cache_blocks",
    "estimate_cached_tokens",
    "evict_blocks",
    "free",
    "get_block_ids",
    "get_block_ids_for_computed_tokens",
    "get_blocks",
    "get_computed_blocks",
    "get_computed_blocks_for_connector",
    "get_num_common_prefix_blocks",
    "make_prefix_cache_stats",
    "new_step_starts",
    "record_blocks_for_zeroing",
    "record_prefix_cache_stats",
    "remove_skipped_blocks",
    "reset_prefix_cache",
    "take_boundary_state_offloads",
    "take_events",
    "take_new_block_ids",
    "truncate_computed_blocks",
)
"""Methods of a manager whose answers are compared."""

NOT_FOLLOWED = "pop_blocks_for_free"
"""A method after which blocks go back to vLLM's pool beside its manager."""


def plain(answer: Any) -> Any:
    """An answer as data that two equal ones share: ids of blocks, and what a subscriber reads of events and counts."""
    if hasattr(answer, "get_block_ids"):
        return answer.get_block_ids()
    if isinstance(answer, tuple):
        return tuple(map(plain, answer))
    if hasattr(answer, "preempted_hits"):
        # What connectors count besides, a manager does not.
        return [getattr(answer, each.name) for each in fields(PrefixCacheStats)]
    # Not the bytes: the header of a map has room for fields that are left out, of which another version has fewer.
    return msgspec.msgpack.decode(msgspec.msgpack.encode(answer))


class CheckedManager:
    """vLLM's manager serves. kvgpu's is asked the same; the first difference is logged, and ends the comparison.

    Args:
        theirs: A `KVCacheManager` of vLLM.
        ours: A manager of kvgpu for the same configuration.

    Attributes:
        num_compared: Answers that were equal.
        difference: What was different; None while nothing was.
    """

    def __init__(self, theirs: Any, ours: KVCacheManager) -> None:
        self.theirs = theirs
        self.ours: KVCacheManager | None = ours
        self.num_compared = 0
        self.difference: str | None = None
        self._shares_pool = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.theirs, name)
        if name == NOT_FOLLOWED and self.ours is not None:
            self._end("blocks of ended requests go back later, beside the manager", name, (), {})
        if name not in COMPARED:
            return found

        def compared(*args: Any, **options: Any) -> Any:
            return self._compared(name, found, args, options)

        # Found here from now on, without `__getattr__`.
        vars(self)[name] = compared
        return compared

    def take_kv_cache_block_copies(self) -> tuple[list[Any], list[Any]]:
        """Return vLLM's copies of blocks. Both blocks of each go back to its pool beside the manager, so the first
        copies end the comparison."""
        copies, retained = self.theirs.take_kv_cache_block_copies()
        if copies and self.ours is not None:
            self._end("blocks that were copied go back beside the manager", "take_kv_cache_block_copies", (), {})
        return copies, retained

    @property
    def block_pool(self) -> Any:
        """vLLM's pool. What its user does to it is not repeated in kvgpu's, so a difference may come from there."""
        self._shares_pool = True
        return self.theirs.block_pool

    def _compared(self, name: str, method: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Call a method of both managers and compare the answers.

        Raises:
            BaseException: vLLM's method raised it; nothing is compared any more.
        """
        ours = self.ours
        if ours is None:
            return method(*args, **options)
        # vLLM's call may change the request, so kvgpu's arguments are made before it.
        own_args = [self._own(ours, each) for each in args]
        own_options = {key: self._own(ours, each) for key, each in options.items()}
        try:
            expected = method(*args, **options)
        except BaseException as error:
            self._end(f"vLLM's manager raised {error!r:.200}", name, args, options)
            raise
        try:
            got = getattr(ours, name)(*own_args, **own_options)
            same = plain(got) == plain(expected)
        except Exception as error:
            got, same = error, False
        if same:
            self.num_compared += 1
        else:
            self.difference = f"vLLM answered {_told(expected)}, kvgpu {_told(got)}"
            self._end(self.difference, name, args, options)
        return expected

    @staticmethod
    def _own(ours: KVCacheManager, argument: Any) -> Any:
        """An argument for kvgpu's manager: blocks of vLLM's pool become those with the same ids."""
        if not hasattr(argument, "get_block_ids"):
            return argument
        blocks = ours.block_pool.blocks
        return KVCacheBlocks(tuple([blocks[block_id] for block_id in ids] for ids in argument.get_block_ids()))

    def _end(self, why: str, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Log why nothing is compared any more, with the call."""
        self.ours = None
        given = [*map(_told, args), *(f"{key}={_told(value)}" for key, value in options.items())]
        logger.error(
            "kvgpu is not compared any more after %d equal answers: %s(%s): %s%s",
            self.num_compared,
            name,
            ", ".join(given),
            why,
            "; a connector was given vLLM's pool, and may have changed it" if self._shares_pool else "",
        )


def _told(value: Any) -> str:
    """A value for the log: of a request, what decides about its blocks."""
    if hasattr(value, "request_id"):
        return (
            f"request {value.request_id!r} with {value.num_tokens} tokens, {value.num_computed_tokens} computed, "
            f"{len(value.block_hashes)} hashes"
        )
    return shown(plain(value)) if hasattr(value, "get_block_ids") or isinstance(value, tuple) else shown(value)
