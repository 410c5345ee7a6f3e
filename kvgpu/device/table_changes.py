"""`TableChanges`: what changes a table on a device, all of a batch or nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kvgpu import layout
from kvgpu.device.table_memory import TableMemory
from kvgpu.device.tensors import as_vector, on_stream


class TableChanges(TableMemory):
    """Flushes of a table, and its size. Args and Raises: see `BlockHashTable`."""

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
            validate: Check all of this on the device first: a batch that breaks it changes nothing. Without, it
                must not, or the table is broken.
            stream: Torch or CuPy stream, or its address; None for torch's current one.

        Raises:
            ArgumentError, ArgumentTypeError: Shapes, dtypes or devices that do not fit.

        Expected O(n) work, and O(n) bytes beside the table to validate; does not synchronise.
        """
        with on_stream(stream, self.device):
            words, all_groups, before, after = self._batch(keys, groups, old, new)
            ask = before is not None
            if before is None:
                before = self._torch.empty_like(after)
                self._engine.launch_find(self.view, words, all_groups, before)
            if not validate:
                self._engine.launch_update(self.view, words, all_groups, before, after)
                return
            with self._validated(words, all_groups, before, after, ask=ask):
                self._engine.launch_update(self.view, words, all_groups, before, after)

    def update(self, keys: Any, new: Any, groups: Any = 0, *, old: Any = None, stream: Any = None) -> int:
        """`update_async`, then wait; returns the number of keys in the table.

        Raises:
            BlockIdError: An id is out of range. The table is unchanged, as after the others.
            ArgumentError: A group is out of range, a key is there twice in a group, a block would be first under
                two keys, or `old` is not what is first.

        Expected O(n) work.
        """
        self._waits(stream)
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
        self._waits(stream)
        self.clear_async(stream=stream)
        self.size(stream=stream)

    def rebuild_async(self, keys: Any, ids: Any, groups: Any = 0, *, validate: bool = True, stream: Any = None) -> None:
        """Replace all entries by block ``ids[i]`` under ``keys[i]``. Expected O(num_blocks + n).

        Args:
            keys, groups, validate, stream: As in `update_async`, which also says what is raised.
            ids: int32 [n].

        Errors that wait to be reported are forgotten. Does not synchronise.
        """
        with on_stream(stream, self.device):
            words, all_groups, _, after = self._batch(keys, groups, None, ids)
            before = self._torch.full_like(after, -1)
            if not validate:
                self.clear_async()
                self._engine.launch_update(self.view, words, all_groups, before, after)
                return
            self.view.meta[layout.META_STATUS].zero_()
            with self._validated(words, all_groups, before, after, replaces=True) as gate:
                # The gate is 1 where everything stays, else 0.
                self.view.words.mul_(gate)
                self.view.meta[layout.META_SIZE].mul_(gate)
                self._engine.launch_update(self.view, words, all_groups, before, after)

    def rebuild(self, keys: Any, ids: Any, groups: Any = 0, *, stream: Any = None) -> int:
        """`rebuild_async`, then wait; returns the number of keys. Raises as `update` does. Expected
        O(num_blocks + n)."""
        self._waits(stream)
        self.rebuild_async(keys, ids, groups, stream=stream)
        return self.size(stream=stream)

    def _batch(self, keys: Any, groups: Any, old: Any, new: Any) -> tuple[Any, Any, Any, Any]:
        """Keys, groups, old and new blocks of a batch as kernels take them; None for no old ones."""
        words = self._keys(keys)
        count, int32 = len(words), self._torch.int32
        after = as_vector("new", new, count, int32, self.device)
        before = None if old is None else as_vector("old", old, count, int32, self.device)
        return words, self._groups(groups, count).expand(count).contiguous(), before, after

    @contextmanager
    def _validated(
        self, words: Any, groups: Any, before: Any, after: Any, *, ask: bool = False, replaces: bool = False
    ) -> Iterator[Any]:
        """What is started inside is kept from a bad batch by the gate, which is given: int64 [], 1 where closed."""
        from kvgpu.kernels.validate import launch_validate, set_size

        gate = self.view.meta[layout.META_GATE]
        sets = self._torch.zeros((3, set_size(len(words))), dtype=self._torch.int32, device=self.device)
        try:
            gate.zero_()
            launch_validate(self.view, words, groups, before, after, sets, ask, replaces)
            yield gate
        finally:
            gate.zero_()

    def size_async(self) -> Any:
        """Number of keys as an int64 tensor [] on the device: a live view. O(1); does not synchronise."""
        return self.view.meta[layout.META_SIZE]

    def size(self, *, stream: Any = None) -> int:
        """Number of keys. Waits for the stream and reports, once, what went wrong on it before. O(1).

        Raises:
            BlockIdError, ArgumentError, InvariantError: See `update` and `longest_prefix`.
        """
        self._waits(stream)
        with on_stream(stream, self.device):
            size, status = self.view.meta[:2].tolist()
            if status:
                self.view.meta[layout.META_STATUS].zero_()
                raise self._error(status)
        return int(size)
