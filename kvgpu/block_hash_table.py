"""`BlockHashTable`: the block-hash table in device memory, for the manager and for anybody else."""

from typing import TYPE_CHECKING, Any

from kvgpu.errors import InvariantError
from kvgpu.kernels import layout
from kvgpu.plan import HitQuery, HitRule, PrefixPlan
from kvgpu.table_memory import TableMemory
from kvgpu.tensors import as_vector, on_stream

if TYPE_CHECKING:
    from kvgpu.kernels.longest_prefix import PrefixBuffers

ONE_GROUP = PrefixPlan((HitQuery(HitRule(layout.FULL, 1, 1), (0,)),))
"""The plan of full attention in group 0, where a token is a block: hits count blocks."""


class BlockHashTable(TableMemory):
    """Exact map from (block hash, cache group) to the first block with that hash, on a device.

    An entry is a block: its hash and group lie in the record of its id, so an id is in the table at
    most once, and a table for `num_blocks` blocks never fills up or grows. Every operation comes in
    two forms: ``op_async`` only starts kernels on a stream, allocates only what has no `out=`, can be
    captured in a CUDA graph (after one call outside, which compiles), and leaves bad values to be
    reported later; ``op`` waits for the result and reports them. Operations on one stream are ordered;
    between streams the caller orders them, and no lookup may run beside an update.

    Args:
        num_blocks: Blocks of the pool; ids are below this.
        key_bytes: Bytes of a block hash, 16 or 32.
        device: Torch device; None for the current GPU (the CPU under TRITON_INTERPRET=1).
        load_factor: Fraction of the slots that `num_blocks` keys fill, above 0 and at most 0.9.
        seed: Of the slot hash; None for a random one, so that nobody can aim at one bucket.
        engine: `triton` or `cuda`. Both use the same bytes.

    Attributes:
        view: `TableView`: its tensors and sizes, for kernels of your own.

    Raises:
        ConfigError: Sizes out of range, or an unknown engine.
        DeviceError, MissingPackageError: The device or the engine cannot be used.

    Memory: 64 bytes per 7 * load_factor blocks, and a record of 32 or 64 bytes per block. Construction is
    O(num_blocks) and waits until the table is zeroed.
    """

    # Changing

    def update_async(
        self, keys: Any, new: Any, groups: Any = 0, *, old: Any = None, validate: bool = True,
        stream: Any = None,
    ) -> None:  # fmt: skip
        """Make block ``new[i]`` the first under ``keys[i]``, -1 for none; a batch names a key once in a group.

        A block that is first under another key must leave that in the same or an earlier flush.

        Args:
            keys: uint8 [n, key_bytes] or int64 [n, key_bytes / 8], on the device.
            new: int32 [n].
            groups: int32 [n], or one number for all.
            old: int32 [n], the blocks that are first now, -1 for none; None to look them up.
            validate: Check ids and groups on the device first: a batch with bad ones changes nothing.
            stream: Torch or CuPy stream, or its address; None for torch's current one.

        Raises:
            ArgumentError, ArgumentTypeError: Shapes, dtypes or devices that do not fit.

        Expected O(n) work; does not synchronise.
        """
        with on_stream(stream, self.device):
            words = self._keys(keys)
            count = len(words)
            all_groups = self._groups(groups, count).expand(count).contiguous()
            after = as_vector("new", new, count, self._torch.int32, self.device)
            if old is None:
                before = self._torch.empty_like(after)
                self._engine.launch_find(self.view, words, all_groups, before)
            else:
                before = as_vector("old", old, count, self._torch.int32, self.device)
            self._engine.launch_update(self.view, words, all_groups, before, after, validate)

    def update(self, keys: Any, new: Any, groups: Any = 0, *, old: Any = None,
               stream: Any = None) -> int:  # fmt: skip
        """`update_async`, then wait; returns the number of keys in the table.

        Raises:
            BlockIdError, ArgumentError: Ids or groups out of range; the table is unchanged.
            InvariantError: `old` is not what was first: the table must be rebuilt.

        Expected O(n) work.
        """
        self.update_async(keys, new, groups, old=old, stream=stream)
        return self.size(stream=stream)

    def clear_async(self, *, stream: Any = None) -> None:
        """Take everything out; errors that wait to be reported are forgotten. O(num_blocks); does not
        synchronise."""
        with on_stream(stream, self.device):
            self.view.words.zero_()
            self.view.meta.zero_()

    def clear(self, *, stream: Any = None) -> None:
        """`clear_async`, then wait. O(num_blocks)."""
        self.clear_async(stream=stream)
        self.size(stream=stream)

    def rebuild_async(self, keys: Any, ids: Any, groups: Any = 0, *, stream: Any = None) -> None:
        """Replace all entries by block ``ids[i]`` under ``keys[i]``. Expected O(num_blocks + n).

        Args:
            keys, groups, stream: As in `update_async`, which also says what is raised.
            ids: int32 [n].

        Does not synchronise.
        """
        with on_stream(stream, self.device):
            words = self._keys(keys)
            none = self._torch.full((len(words),), -1, dtype=self._torch.int32, device=self.device)
            self.clear_async()
            self.update_async(words, ids, groups, old=none)

    def rebuild(self, keys: Any, ids: Any, groups: Any = 0, *, stream: Any = None) -> int:
        """`rebuild_async`, then wait; returns the number of keys. Raises as `update` does. Expected
        O(num_blocks + n)."""
        self.rebuild_async(keys, ids, groups, stream=stream)
        return self.size(stream=stream)

    # Looking up

    def find_async(self, keys: Any, groups: Any = 0, *, out: Any = None, stream: Any = None) -> Any:
        """First block under each key.

        Args:
            keys: uint8 [n, key_bytes] or int64 [n, key_bytes / 8], on the device.
            groups: int32 [n], or one number for all.
            out: int32 [n] to write to.
            stream: As in `update_async`.

        Returns:
            int32 [n]: ids, -1 where there is none.

        Raises:
            ArgumentError, ArgumentTypeError: Shapes, dtypes or devices that do not fit.

        Expected O(n) work: a hit reads one bucket and one record, a miss one bucket, at low load. Does not
        synchronise.
        """
        torch = self._torch
        with on_stream(stream, self.device):
            words = self._keys(keys)
            if out is None:
                out = torch.empty(len(words), dtype=torch.int32, device=self.device)
            ids = as_vector("out", out, len(words), torch.int32, self.device, written=True)
            self._engine.launch_find(self.view, words, self._groups(groups, len(words)), ids)
        return out

    def find(self, keys: Any, groups: Any = 0, *, out: Any = None, stream: Any = None) -> Any:
        """`find_async`, then wait and report what is pending, as `size` does. Expected O(n) work."""
        out = self.find_async(keys, groups, out=out, stream=stream)
        self.size(stream=stream)
        return out

    def contains_async(self, keys: Any, groups: Any = 0, *, out: Any = None,
                       stream: Any = None) -> Any:  # fmt: skip
        """Whether there is a block under each key, bool [n]; `out` bool [n]. See `find_async`.

        Expected O(n) work, with n ids allocated in between; does not synchronise.
        """
        ids = self.find_async(keys, groups, stream=stream)
        with on_stream(stream, self.device):
            if out is None:
                return ids >= 0
            target = as_vector("out", out, len(ids), self._torch.bool, self.device, written=True)
            self._torch.ge(ids, 0, out=target)
        return out

    def contains(self, keys: Any, groups: Any = 0, *, out: Any = None, stream: Any = None) -> Any:
        """`contains_async`, then wait and report what is pending, as `size` does. Expected O(n) work."""
        out = self.contains_async(keys, groups, out=out, stream=stream)
        self.size(stream=stream)
        return out

    def prefix_buffers(
        self, num_requests: int, num_keys: int, plan: PrefixPlan = ONE_GROUP, with_ids: bool = True
    ) -> "PrefixBuffers":
        """Uninitialised buffers for `longest_prefix`, to be used again and again.

        Also brings the plan to the device, and waits for that if the table has not had it yet: a capture in a
        CUDA graph needs that done before.

        Args:
            num_requests: Requests of a batch.
            num_keys: Keys of all of them.
            plan: As in `longest_prefix_async`.
            with_ids: Whether block ids are wanted, too.

        Returns:
            On the device of the table; see `PrefixBuffers` for shapes and dtypes.

        O(groups) beside the allocations: 4 bytes a key and group, twice that with ids.
        """
        from kvgpu.kernels.longest_prefix import PrefixBuffers

        torch = self._torch

        def empty(*shape: int, dtype: Any = torch.int32) -> Any:
            return torch.empty(shape, dtype=dtype, device=self.device)

        self._plan(plan)
        lines, queries = len(plan.groups), len(plan.queries)
        return PrefixBuffers(
            num_tokens=empty(num_requests, dtype=torch.int64),
            firsts=empty(num_requests, queries),
            lengths=empty(num_requests, queries),
            ids=empty(lines, num_keys) if with_ids else None,
            hits=empty(lines, num_keys),
        )

    def longest_prefix_async(
        self, keys: Any, offsets: Any, plan: PrefixPlan = ONE_GROUP, *, longest: int,
        max_lengths: Any = None, null_id: int = 0, out: "PrefixBuffers | None" = None,
        stream: Any = None,
    ) -> "PrefixBuffers":  # fmt: skip
        """Longest cached prefix of every request over all cache groups of a plan.

        Args:
            keys: uint8 [n, key_bytes] or int64 [n, key_bytes / 8]: hashes of all requests, in order.
            offsets: int64 [requests + 1]: keys offsets[r] to offsets[r + 1] belong to request r. Or a
                pair of int64 [requests]: first key, and key after the last.
            plan: Rules and groups; by default the leading run in group 0, in blocks.
            longest: Most keys of any request; what a longer one has beyond is not looked at.
            max_lengths: int64 [requests], longest hit allowed in tokens; None for no limit.
            null_id: What stands for a block that is not needed.
            out: From `prefix_buffers`.
            stream: As in `update_async`.

        Returns:
            `out`; see `PrefixBuffers` for shapes.

        Raises:
            ArgumentError, ArgumentTypeError: Shapes, dtypes or devices that do not fit, or too many keys for
                one launch.

        Two launches; O(n * groups) lookups, all independent. Does not synchronise, but for a plan that the
        table has not had yet.
        """
        from kvgpu.kernels.longest_prefix import launch_decide

        torch = self._torch
        with on_stream(stream, self.device):
            words = self._keys(keys)
            begins, ends = self._spans(offsets)
            longest = min(longest, len(words))
            if max_lengths is None:
                max_lengths = torch.full_like(begins, layout.MAX_TOKENS)
            limits = as_vector("max_lengths", max_lengths, len(begins), torch.int64, self.device)
            if out is None:
                out = self.prefix_buffers(len(begins), len(words), plan)
            self._check_buffers(out, len(begins), len(words), plan)
            plan_words = self._plan(plan)
            queries = len(plan.queries)
            self._engine.launch_probe(
                self.view, plan_words, words, begins, ends, out.hits, longest, queries
            )
            launch_decide(self.view, plan_words, begins, ends, limits, out, longest, null_id)
        return out

    def longest_prefix(
        self, keys: Any, offsets: Any, plan: PrefixPlan = ONE_GROUP, *, max_lengths: Any = None,
        null_id: int = 0, out: "PrefixBuffers | None" = None, stream: Any = None,
    ) -> "PrefixBuffers":  # fmt: skip
        """`longest_prefix_async`, then wait. O(n * groups) lookups.

        Raises:
            ArgumentError: Offsets that decrease or leave the keys; their requests have no result.
        """
        with on_stream(stream, self.device):
            begins, ends = self._spans(offsets)
            longest = int((ends - begins).max()) if len(begins) else 0
        out = self.longest_prefix_async(
            keys, (begins, ends), plan, longest=longest, max_lengths=max_lengths,
            null_id=null_id, out=out, stream=stream,
        )  # fmt: skip
        self.size(stream=stream)
        return out

    # Looking at the whole

    def size_async(self) -> Any:
        """Number of keys as an int64 tensor [] on the device: a live view. O(1); does not synchronise."""
        return self.view.meta[layout.META_SIZE]

    def size(self, *, stream: Any = None) -> int:
        """Number of keys. Waits for the stream and reports, once, what went wrong on it before. O(1).

        Raises:
            BlockIdError, ArgumentError, InvariantError: See `update` and `longest_prefix`.
        """
        with on_stream(stream, self.device):
            size, status = self.view.meta[:2].tolist()
            if status:
                self.view.meta[layout.META_STATUS].zero_()
                raise self._error(status)
        return int(size)

    def items_async(self, *, stream: Any = None) -> Any:
        """Which blocks are entries: bool [num_blocks] on the device; keys and groups lie in `view.records`.

        O(num_blocks); does not synchronise.
        """
        torch = self._torch
        with on_stream(stream, self.device):
            slots = self.view.words[:, : layout.SLOTS_PER_BUCKET].reshape(-1)
            entered = torch.zeros(self.num_blocks + 1, dtype=torch.bool, device=self.device)
            entered[slots & layout.LOW_32] = True
        return entered[1:]

    def items(self, *, stream: Any = None) -> tuple[Any, Any, Any]:
        """(keys uint8 [n, key_bytes], groups int32 [n], ids int32 [n]), by id, on the device. Waits,
        and raises as `size` does. O(num_blocks)."""
        torch = self._torch
        self.size(stream=stream)
        entered = self.items_async(stream=stream)
        with on_stream(stream, self.device):
            ids = entered.nonzero().flatten()
            records = self.view.records[ids]
            words = self.view.key_words
            keys = records[:, :words].contiguous().view(torch.uint8)
            return keys, records[:, words].to(torch.int32), ids.to(torch.int32)

    def check(self, *, stream: Any = None) -> None:
        """Look at every entry: reachable, no key twice, no block twice, all counts right.

        Raises:
            InvariantError: Something does not hold; the message lists all that was found.

        Waits. O(num_blocks).
        """
        from kvgpu.kernels.invariants import VIOLATION_WORDS, launch_entries, violations_in_words

        torch = self._torch
        size = self.size(stream=stream)
        with on_stream(stream, self.device):
            overflow = torch.zeros_like(self.view.words[:, 0])
            uses = torch.zeros(self.num_blocks, dtype=torch.int32, device=self.device)
            counts = torch.zeros(VIOLATION_WORDS, dtype=torch.int64, device=self.device)
            launch_entries(self.view, overflow, uses, counts)
            miscounted = (overflow != self.view.words[:, layout.OVERFLOW_WORD]).sum()
            found = violations_in_words(
                counts.tolist(), size, int(miscounted), int((uses > 1).sum())
            )
        if found:
            raise InvariantError("; ".join(found))
