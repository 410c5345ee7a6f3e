"""`BlockPool`: allocates blocks, remembers which are cached, and takes blocks back in eviction order."""

import logging
from collections.abc import Iterable, Mapping

from kvgpu.arguments import integers, listed_ids, own_blocks
from kvgpu.block_tables.block_allocator import REQUESTED, BlockAllocator
from kvgpu.block_tables.holders import BlockHolders
from kvgpu.blocks.block_list import AllBlocks, BlockList
from kvgpu.blocks.free_order import POLICY
from kvgpu.blocks.free_queue import FreeKVCacheBlockQueue
from kvgpu.blocks.invariants import queue_violations
from kvgpu.blocks.record import Ids
from kvgpu.blocks.state import BlockState, KVCacheBlock
from kvgpu.config.behaviour import Behaviour, behaviour_of
from kvgpu.environment import backend_name
from kvgpu.errors import ArgumentTypeError, BlockStateError, InvariantError
from kvgpu.events.event_queue import EventQueue
from kvgpu.eviction.names import LRU, check_eviction
from kvgpu.exclusive import exclusive
from kvgpu.hashing.functions import BlockHash
from kvgpu.hashing.map_keys import checked_group
from kvgpu.index.journal import Journal
from kvgpu.index.prefix_cache import PrefixCache
from kvgpu.index.registry import backend_by_name
from kvgpu.integers import as_integer, as_option, as_size, as_switch, shown
from kvgpu.metrics import KVCacheMetricsCollector
from kvgpu.pool.pool_caching import PoolCaching

logger = logging.getLogger(__name__)


class BlockPool(PoolCaching):
    """All blocks of the KV cache.

    Args:
        num_gpu_blocks: Number of blocks; block 0 becomes the null block (fact 11).
        enable_caching: Whether full blocks stay cached for reuse.
        hash_block_size: Tokens per block hash; block sizes are multiples of it.
        enable_kv_cache_events: Whether to queue events for `take_events`.
        metrics_collector: Receives every allocation, access and eviction.
        behaviour: The version of vLLM to behave like, see `kvgpu.config.behaviour`.
        num_hash_lookahead_tokens: Tokens after a block that its hash covers, too, as events then say.
        num_aliases: Further keys that blocks can have, all of them together, before lookups become slow.
        backend: Index backend; if None, `KVGPU_BACKEND` or else `host`.
        journal: Records the changes of the index, for a copy elsewhere.

    Raises:
        ConfigError: There are no blocks, the hash block size is below 1, the backend is unknown, a variable
            that `kvgpu.environment` reads has a bad value, or the events of the behaviour know no look-ahead.
        ArgumentTypeError, UnknownNameError: There is no such behaviour.
        DeviceError, MissingPackageError: The backend `triton` or `cuda` cannot be used.

    Construction is O(num_gpu_blocks); a block costs 68 bytes and its share of the table.

    Attributes:
        allocator: Takes blocks for block tables and gives them back, by id and unchecked.
        events: Those that nobody has taken yet.
        holders: Who holds which blocks: block tables, and callers of `get_new_blocks` and `touch` until `free_blocks`.
        block_tables: Memory of the block tables.
        eviction: What `set_eviction` has made; None for `lru`.
    """

    def __init__(
        self,
        num_gpu_blocks: int,
        enable_caching: bool,
        hash_block_size: int,
        enable_kv_cache_events: bool = False,
        metrics_collector: KVCacheMetricsCollector | None = None,
        *,
        behaviour: str | Behaviour = "0.23",
        num_hash_lookahead_tokens: int = 0,
        num_aliases: int = 0,
        backend: str | None = None,
        journal: Journal | None = None,
    ) -> None:
        super().__init__()
        self.behaviour = behaviour_of(behaviour)
        self.num_hash_lookahead_tokens = as_size("num_hash_lookahead_tokens", num_hash_lookahead_tokens, 0)
        self.num_gpu_blocks = num_gpu_blocks = as_size("num_gpu_blocks", num_gpu_blocks)
        self.hash_block_size = as_size("hash_block_size", hash_block_size)
        wanted = as_option("enable_kv_cache_events", enable_kv_cache_events)
        self.events = EventQueue(wanted, self.turn, self.behaviour, self.num_hash_lookahead_tokens)
        index_type = backend_by_name(backend_name() if backend is None else backend)
        self.enable_caching = as_option("enable_caching", enable_caching)
        self.state = BlockState(num_gpu_blocks, as_size("num_aliases", num_aliases, 0))
        self.index = index_type(self.state, journal)
        self.blocks = AllBlocks(self.state)
        self.free_block_queue = FreeKVCacheBlockQueue.of_state(self.state)
        self.prefix_cache = PrefixCache(self.state, self.index, not self.behaviour.keys_by_last_hash)
        self.holders = BlockHolders(self.state, self.turn)
        self.block_tables = self.holders.store
        self.turn.restore = self._restore
        self.cached_block_hash_to_block = self.prefix_cache.map
        self.allocator = BlockAllocator(
            self.prefix_cache, self.events, self.turn, metrics_collector, self.enable_caching
        )
        # The name in test suites written for vLLM.
        self._maybe_evict_cached_block = self.allocator.evict
        self.num_reserved_blocks = 0
        self.null_block = self.free_block_queue.popleft()
        self.state.null_id = self.null_block.block_id
        self.state.counts_null_users = self.behaviour.counts_null_users

    def get_cached_block(self, block_hash: BlockHash, kv_cache_group_ids: list[int]) -> list[KVCacheBlock] | None:
        """Return the first cached block with this hash in each group (fact 12); None unless every group has one.

        Raises:
            ArgumentError, ArgumentTypeError: The hash is not bytes, or a group is not a valid group number.

        Looks the hash up in the host's table. Expected O(groups).
        """
        if not isinstance(block_hash, bytes):
            raise ArgumentTypeError(f"a block hash in bytes is expected, got {shown(block_hash)}")
        groups = [checked_group(group) for group in integers("groups", kv_cache_group_ids).tolist()]
        return self.prefix_cache.find_all(block_hash, groups)

    @exclusive
    def get_new_blocks(self, num_blocks: int) -> list[KVCacheBlock]:
        """Take the first `num_blocks` blocks of the free queue; cached ones among them are evicted (fact 14).

        Raises:
            ArgumentError, ArgumentTypeError: The number is below 0, or not an integer.
            NotEnoughBlocksError: Fewer blocks are free; none is taken.
            Exception: The metrics collector, or the code that makes events, raised it. No block is taken, but some
                may have been evicted.

        Expected O(num_blocks).
        """
        return list(BlockList(self.state, self.allocate(num_blocks)))

    @exclusive
    def allocate(self, num_blocks: int) -> Ids:
        """Do what `get_new_blocks` does, and return int32 ids [num_blocks]; raises the same. Expected O(num_blocks)."""
        ids = self.allocator.take(as_integer("num_blocks", num_blocks))
        if self.turn.complaints:
            # The caller gets an exception in place of the blocks, so it could not give them back.
            self.allocator.give_back(ids, backwards=True, prepend=True)
            self.turn.raise_complaint()
        self.holders.hand_out(ids)
        return ids

    @exclusive
    def touch(self, blocks: Iterable[KVCacheBlock] | Ids) -> None:
        """Add one user to each block; free blocks leave the free queue (fact 15). O(len(blocks)).

        Raises:
            ArgumentError: A block belongs to another pool, or was made by hand.
            ArgumentTypeError: The argument holds neither blocks nor ids.
            BlockIdError: An id is outside the pool. None of these errors changes anything.
            Exception: The metrics collector raised it; the blocks are touched.
        """
        ids = own_blocks(self.state, blocks)
        self.holders.hand_out(ids)
        self.allocator.take_hits(ids)

    @exclusive
    def free_blocks(
        self, ordered_blocks: Iterable[KVCacheBlock] | Ids, prepend: bool = False, *, backwards: bool = False
    ) -> None:
        """Give back blocks from `get_new_blocks` or `touch`; blocks without users become free (facts 16 and B24).

        Freed blocks stay cached. In behaviour 0.33 those without a hash are evicted before all other free blocks, and
        the others after them. O(blocks).

        Args:
            ordered_blocks: Blocks, or their ids, int [n]; the first is evicted first. Null blocks are skipped.
            prepend: Whether to put them before all other free blocks instead of after them; without effect in
                behaviour 0.33.
            backwards: Whether to take them in reverse order.

        Raises:
            ArgumentError: A block belongs to another pool, or was made by hand.
            ArgumentTypeError: The argument holds neither blocks nor ids.
            BlockIdError: An id is outside the pool.
            BlockStateError: A block is given back more often than it was handed out: it is free, or requests hold it,
                which give it back through `KVCacheManager.free`. None of these errors changes anything.
        """
        ids = own_blocks(self.state, ordered_blocks)
        prepend, backwards = as_switch("prepend", prepend), as_switch("backwards", backwards)
        self.holders.hand_back(ids)
        if self.behaviour.splits_freed_blocks:
            self.allocator.give_back_by_hash(ids if backwards else ids[::-1].copy())
        else:
            self.allocator.give_back(ids, prepend, backwards=backwards)

    @exclusive
    def evict_blocks(self, block_ids: Iterable[int]) -> None:
        """Forget the hashes of blocks, so that no lookup finds them; blocks in use stay in use. Expected O(1) an id.

        Raises:
            ArgumentTypeError: An id is not an integer.
            BlockIdError: An id is outside the pool. Neither of these errors evicts anything.
            Exception: The metrics collector, or the code that makes events, raised it. All blocks are evicted.
        """
        evicted = listed_ids(block_ids, self.num_gpu_blocks)
        for block_id in evicted:
            if self.allocator.evict(self.state.view(block_id)):
                self.allocator.num_forgotten[REQUESTED] += 1
        if self.eviction is not None:
            self.eviction.place_again(evicted)
        if len(self.state.aliases.owners):
            self.holders.forget_covered()  # requests that hold the blocks cache the ends of their prompts again

    @exclusive
    def reset_prefix_cache(self) -> bool:
        """Forget all cached blocks, for example after new weights. O(num_gpu_blocks).

        Returns:
            False, with a warning and nothing changed, while a request holds blocks.

        Raises:
            Exception: The metrics collector, or the code that makes events, raised it. Everything is forgotten.
        """
        used = self.num_gpu_blocks - self.get_num_free_blocks() - self.num_reserved_blocks
        if used != 1:
            logger.warning("The prefix cache was not reset: %d blocks are in use; free all requests first", used - 1)
            return False
        self.allocator.evict_all()
        if self.eviction is not None:
            self.eviction.place_all_again()
        logger.info("The prefix cache was reset")
        return True

    @exclusive
    def set_eviction(self, name: str, shares: Mapping[str, int] | None = None) -> None:
        """Have a policy say which free blocks are taken next; those that are not cached always go first.

        Args:
            name: One of `kvgpu.eviction.names.EVICTIONS`; `lru`, which a pool has from the start, is vLLM's order.
            shares: Blocks that each tenant keeps; None if requests give no hints.

        Raises:
            UnknownNameError: There is no such policy.
            BlockStateError: The pool has been used. Neither changes anything.

        O(num_gpu_blocks); compiles code, or loads it from disk, unless the policy is `lru` without hints.
        """
        check_eviction(name)
        eviction = None
        if name != LRU or shares is not None:
            from kvgpu.eviction.policy import Eviction

            eviction = Eviction(name, self.state, shares)
        if self.get_num_free_blocks() + self.num_reserved_blocks != self.num_gpu_blocks - 1 or len(self.index):
            raise BlockStateError("an order of eviction is chosen before blocks are taken or cached")
        self.eviction = eviction
        self.state.free.queue_words[POLICY] = 0 if eviction is None else eviction.address

    def get_num_free_blocks(self) -> int:
        """Return the number of blocks that can be allocated. O(1)."""
        return self.free_block_queue.num_free_blocks

    def get_usage(self) -> float:
        """Return the fraction of blocks in use, 0.0 to 1.0, without the null block. O(1)."""
        total = self.num_gpu_blocks - 1
        return 1.0 - self.get_num_free_blocks() / total if total else 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of the records, of the free queue and of the table, including its copy on a device. O(1)."""
        state = self.state
        of_policy = 0 if self.eviction is None else self.eviction.nbytes
        return sum(array.nbytes for array in (state.records, *state.free)) + self.index.nbytes + of_policy

    def check(self) -> None:
        """Check that queue, reference counts, records and table agree. O(num_gpu_blocks).

        Waits for the device if the index has one.

        Raises:
            InvariantError: An invariant is violated; the message lists all violations.
            DeviceError: The index has a device, and this process was forked from the one that made it.
        """
        found = self._check()
        if found:
            raise InvariantError("; ".join(found))

    @exclusive
    def _check(self) -> list[str]:
        further = self.prefix_cache.further.violations()
        return queue_violations(self.state) + self.holders.violations() + self.index.violations() + further

    def _restore(self) -> None:
        """Make all counts agree again, after an exception from outside has interrupted a call. O(num_gpu_blocks)."""
        self.holders.restore()
        self.allocator.restore()
