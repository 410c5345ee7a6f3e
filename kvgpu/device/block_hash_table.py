"""`BlockHashTable`: the block-hash table in device memory, for the manager and for anybody else."""

from typing import TYPE_CHECKING, Any

from kvgpu import layout
from kvgpu.device import table_changes, table_check, table_lookups
from kvgpu.device.table_arguments import key_spans
from kvgpu.device.table_lookups import ONE_GROUP, PrefixQuery
from kvgpu.device.table_memory import TableMemory
from kvgpu.device.tensors import on_stream
from kvgpu.errors import InvariantError
from kvgpu.rules.plan import PrefixPlan

if TYPE_CHECKING:
    from kvgpu.kernels.longest_prefix import PrefixBuffers


class BlockHashTable:
    """Exact map from (block hash, cache group) to the first block with that hash, on a device.

    An entry is a block: its hash and group lie in the record of its id, so an id is in the table at most once, and a
    table for `num_blocks` blocks never fills up or grows. Every operation comes in two forms: ``op_async`` only starts
    kernels on a stream, allocates only what has no `out=`, can be captured in a CUDA graph (after one call outside,
    which compiles), and leaves bad values to be reported later; ``op`` waits for the result and reports them.
    Operations on one stream are ordered; between streams the caller orders them, and no lookup may run during an
    update.

    Args:
        num_blocks: Blocks of the pool; ids are below this.
        key_bytes: Bytes of a block hash, 16 or 32.
        device: Torch device; None for the current GPU (the CPU under TRITON_INTERPRET=1).
        load_factor: Fraction of the slots that `num_blocks` keys fill, above 0 and at most 0.9.
        seed: Of the slot hash; None for a random one, so that nobody can aim at one bucket.
        engine: `triton` or `cuda`. Both use the same bytes.

    Attributes:
        memory: The tensors that the table keeps.
        view: `TableView`: its tensors and sizes, for kernels of your own.
        device, num_blocks, key_bytes: As given.

    Raises:
        ConfigError: Sizes out of range, or an unknown engine.
        DeviceError, MissingPackageError: The device or the engine cannot be used.

    Memory: 64 bytes per 7 * load_factor blocks, and a record of 32 or 64 bytes per block. Construction is
    O(num_blocks) and waits until the table is zeroed.
    """

    def __init__(
        self,
        num_blocks: int,
        key_bytes: int = 32,
        *,
        device: Any = None,
        load_factor: float = layout.DEFAULT_LOAD_FACTOR,
        seed: int | None = None,
        engine: str = "triton",
    ) -> None:
        self.memory = memory = TableMemory(num_blocks, key_bytes, device, load_factor, seed, engine)
        self.view, self.device = memory.view, memory.device
        self.num_blocks, self.key_bytes = memory.num_blocks, memory.key_bytes

    @property
    def nbytes(self) -> int:
        """Bytes of device memory that the table keeps, without plans. O(1)."""
        return sum(tensor.nbytes for tensor in self.memory.parts().values())

    def update_async(
        self, keys: Any, new: Any, groups: Any = 0, *, old: Any = None, validate: bool = True, stream: Any = None
    ) -> None:
        """Make block ``new[i]`` the first under ``keys[i]``, -1 for none; a batch names a key once in a group.

        A block that is first under another key must leave that in the same or an earlier flush.

        Args:
            keys: uint8 [n, key_bytes] or int64 [n, key_bytes / 8], on the device.
            new: int32 [n].
            groups: int32 [n], or one number for all.
            old: int32 [n], the blocks that are first now, -1 for none; None to look them up.
            validate: Check all of this on the device first, and leave out a batch that breaks it. Without validation
                such a batch breaks the table.
            stream: Torch or CuPy stream, or its address; None for torch's current one.

        Raises:
            ArgumentError, ArgumentTypeError: Shapes, dtypes or devices that do not fit.

        Expected O(n) work, and O(n) more bytes to validate; does not synchronise.
        """
        with on_stream(stream, self.device):
            table_changes.start_update(self.memory, keys, groups, old, new, validate)

    def update(self, keys: Any, new: Any, groups: Any = 0, *, old: Any = None, stream: Any = None) -> int:
        """`update_async`, then wait; returns the number of keys in the table.

        Raises:
            BlockIdError: An id is out of range. The table is unchanged, as after the others.
            ArgumentError: A group is out of range, a key is there twice in a group, a block would be first under
                two keys, or `old` is not what is first.

        Expected O(n) work.
        """
        self.memory.refuse_capture(stream)
        self.update_async(keys, new, groups, old=old, stream=stream)
        return self.size(stream=stream)

    def clear_async(self, *, stream: Any = None) -> None:
        """Take everything out; errors that wait to be reported are forgotten. O(num_blocks); does not
        synchronise."""
        with on_stream(stream, self.device):
            table_changes.start_clear(self.memory)

    def clear(self, *, stream: Any = None) -> None:
        """`clear_async`, then wait. O(num_blocks)."""
        with self.memory.waiting(stream):
            self.clear_async(stream=stream)

    def rebuild_async(self, keys: Any, ids: Any, groups: Any = 0, *, validate: bool = True, stream: Any = None) -> None:
        """Replace all entries by block ``ids[i]`` under ``keys[i]``. Expected O(num_blocks + n).

        Args:
            keys, groups, validate, stream: As in `update_async`, which also says what is raised.
            ids: int32 [n].

        Errors that wait to be reported are forgotten. Does not synchronise.
        """
        with on_stream(stream, self.device):
            table_changes.start_rebuild(self.memory, keys, groups, ids, validate)

    def rebuild(self, keys: Any, ids: Any, groups: Any = 0, *, stream: Any = None) -> int:
        """`rebuild_async`, then wait; returns the number of keys. Raises as `update` does. Expected
        O(num_blocks + n)."""
        self.memory.refuse_capture(stream)
        self.rebuild_async(keys, ids, groups, stream=stream)
        return self.size(stream=stream)

    def size_async(self) -> Any:
        """Number of keys as an int64 tensor [] on the device: a live view. O(1); does not synchronise."""
        return self.view.meta[layout.META_SIZE]

    def size(self, *, stream: Any = None) -> int:
        """Number of keys. Waits for the stream and reports, once, what went wrong on it before. O(1).

        Raises:
            BlockIdError, ArgumentError, InvariantError: See `update` and `longest_prefix`.
        """
        self.memory.refuse_capture(stream)
        return self.memory.take_status(stream)

    def find_async(self, keys: Any, groups: Any = 0, *, out: Any = None, stream: Any = None) -> Any:
        """Look up the first block under each key.

        Args:
            keys, groups, stream: As in `update_async`.
            out: int32 [n] to write to.

        Returns:
            int32 [n]: ids, -1 if there is none.

        Raises:
            ArgumentError, ArgumentTypeError: As in `update_async`, or `out` shares memory with what is read.

        Expected O(n) work: a hit reads one bucket and one record, a miss one bucket, at low load. Does not
        synchronise.
        """
        with on_stream(stream, self.device):
            return table_lookups.start_find(self.memory, keys, groups, out)

    def find(self, keys: Any, groups: Any = 0, *, out: Any = None, stream: Any = None) -> Any:
        """`find_async`, then wait and report what is pending, as `size` does. Expected O(n) work."""
        with self.memory.waiting(stream):
            return self.find_async(keys, groups, out=out, stream=stream)

    def contains_async(self, keys: Any, groups: Any = 0, *, out: Any = None, stream: Any = None) -> Any:
        """Look up whether there is a block under each key, bool [n]; `out` bool [n]. See `find_async`.

        Expected O(n) work, with n ids allocated in between; does not synchronise.
        """
        with on_stream(stream, self.device):
            return table_lookups.start_contains(self.memory, keys, groups, out)

    def contains(self, keys: Any, groups: Any = 0, *, out: Any = None, stream: Any = None) -> Any:
        """`contains_async`, then wait and report what is pending, as `size` does. Expected O(n) work."""
        with self.memory.waiting(stream):
            return self.contains_async(keys, groups, out=out, stream=stream)

    def prefix_buffers(
        self, num_requests: int, num_keys: int, plan: PrefixPlan = ONE_GROUP, with_ids: bool = True
    ) -> "PrefixBuffers":
        """Make uninitialised buffers for `longest_prefix`, which can be used any number of times.

        Also brings the plan to the device, which a capture in a CUDA graph needs done before; waits if that is new.

        Args:
            num_requests: Requests of a batch.
            num_keys: Keys of all of them.
            plan: As in `longest_prefix_async`.
            with_ids: Whether block ids are wanted, too.

        Returns:
            On the device of the table; see `PrefixBuffers` for shapes and dtypes.

        Raises:
            ArgumentError, ArgumentTypeError: A number below 0 or no integer, no plan, or a new plan in a capture.
            DeviceError: There is not so much memory.

        O(groups) and the allocations: 4 bytes a key and group, twice that with ids.
        """
        return table_lookups.empty_buffers(self.memory, num_requests, num_keys, plan, with_ids)

    def longest_prefix_async(
        self,
        keys: Any,
        offsets: Any,
        plan: PrefixPlan = ONE_GROUP,
        *,
        longest: int,
        max_lengths: Any = None,
        null_id: int = 0,
        out: "PrefixBuffers | None" = None,
        stream: Any = None,
    ) -> "PrefixBuffers":
        """Look up the longest cached prefix of every request over all cache groups of a plan.

        Args:
            keys: uint8 [n, key_bytes] or int64 [n, key_bytes / 8]: hashes of all requests, in order.
            offsets: int64 [requests + 1]: keys offsets[r] to offsets[r + 1] belong to request r. Or a
                pair of int64 [requests]: first key, and key after the last.
            plan: Rules and groups; by default the leading run in group 0, in blocks.
            longest: Most keys of any request; what a longer one has beyond is not looked at.
            max_lengths: int64 [requests], longest hit allowed in tokens, below 0 as 0; None for no limit.
            null_id: What stands for a block that is not needed.
            out: From `prefix_buffers`.
            stream: As in `update_async`.

        Returns:
            `out`; see `PrefixBuffers` for shapes.

        Raises:
            ArgumentError, ArgumentTypeError: Shapes, dtypes, devices or numbers that do not fit, too many keys for
                one launch, or `out` shares memory with what is read.

        A plan of one query, for full attention, takes one launch, in which each request stops at its first miss;
        other plans take two, and O(n * groups) lookups, all independent. Does not synchronise, except for a plan that
        the table has not had yet.
        """
        query = PrefixQuery(keys, offsets, longest, max_lengths, null_id)
        with on_stream(stream, self.device):
            return table_lookups.start_longest_prefix(self.memory, query, plan, out)

    def longest_prefix(
        self,
        keys: Any,
        offsets: Any,
        plan: PrefixPlan = ONE_GROUP,
        *,
        max_lengths: Any = None,
        null_id: int = 0,
        out: "PrefixBuffers | None" = None,
        stream: Any = None,
    ) -> "PrefixBuffers":
        """`longest_prefix_async`, then wait. O(n * groups) lookups.

        Raises:
            ArgumentError: Offsets that decrease or leave the keys; their requests have no result.
        """
        with self.memory.waiting(stream), on_stream(stream, self.device):
            spans = begins, ends = key_spans(self.memory, offsets)
            longest = max(0, int((ends - begins).max())) if len(begins) else 0
            query = PrefixQuery(keys, spans, longest, max_lengths, null_id)
            return table_lookups.start_longest_prefix(self.memory, query, plan, out)

    def items_async(self, *, stream: Any = None) -> Any:
        """Look up which blocks are entries, bool [num_blocks], on the device; their keys and groups lie in
        `view.records`. O(num_blocks); does not synchronise."""
        with on_stream(stream, self.device):
            return table_check.start_entered(self.memory)

    def items(self, *, stream: Any = None) -> tuple[Any, Any, Any]:
        """Read all entries: keys uint8 [n, key_bytes], groups int32 [n] and ids int32 [n], by id, on the device.
        Waits, and raises as `size` does. O(num_blocks)."""
        self.size(stream=stream)
        with on_stream(stream, self.device):
            return table_check.entries(self.memory)

    def check(self, *, stream: Any = None) -> None:
        """Look at every entry: reachable, no key twice, no block twice, all counts right.

        Raises:
            InvariantError: Something does not hold; the message lists all that was found.

        Waits. O(num_blocks).
        """
        size = self.size(stream=stream)
        with on_stream(stream, self.device):
            found = table_check.violations(self.memory, size)
        if found:
            raise InvariantError("; ".join(found))
