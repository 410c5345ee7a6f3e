"""`Fields`: the arrays of one section of a snapshot, each of which is checked as it is read."""

from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.errors import SnapshotError
from kvgpu.snapshot.archive import Arrays


class Fields:
    """Arrays of a section by name.

    Args:
        section: Name of the section.
        arrays: Those of all sections, under `section.name`.
    """

    def __init__(self, section: str, arrays: Arrays) -> None:
        prefix = f"{section}."
        self._section = section
        self._arrays = {name.removeprefix(prefix): each for name, each in arrays.items() if name.startswith(prefix)}

    def take(self, name: str, dtype: Any, shape: tuple[int | None, ...] = (None,)) -> npt.NDArray[Any]:
        """Return an array, which is then read-only. O(1).

        Args:
            name: Of the array.
            dtype: Its type.
            shape: Its shape; None stands for any length.

        Raises:
            SnapshotError: It is missing, or of another type or shape.
        """
        array = self._arrays.pop(name, None)
        if array is None:
            raise self.error(f"{name} is missing")
        fits = len(array.shape) == len(shape) and all(
            want in (None, size) for want, size in zip(shape, array.shape, strict=True)
        )
        if array.dtype != np.dtype(dtype) or not fits:
            raise self.error(f"{name} is {array.dtype} {array.shape}, not {np.dtype(dtype)} {shape}")
        return array

    def numbers(self, name: str, dtype: Any, low: int, high: int, count: int | None = None) -> npt.NDArray[Any]:
        """Return an array [count] of numbers from `low` to `high`. O(count).

        Raises:
            SnapshotError: It is missing, of another type or shape, or a number is out of range.
        """
        array = self.take(name, dtype, (count,))
        if len(array) and not (low <= int(array.min()) and int(array.max()) <= high):
            raise self.error(f"{name} has numbers that are not {low} to {high}")
        return array

    def pieces(self, name: str, lengths: npt.NDArray[Any]) -> list[bytes]:
        """Return an array of bytes in pieces of these lengths, which are not negative. O(bytes).

        Raises:
            SnapshotError: It is missing, of another type or shape, or the lengths do not add up to its own.
        """
        ends = np.cumsum(lengths, dtype=np.int64)
        data = self.take(name, np.uint8, (int(ends[-1]) if len(ends) else 0,)).tobytes()
        return [data[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]

    def end(self) -> None:
        """Check that all arrays of the section were read. O(1).

        Raises:
            SnapshotError: There are others.
        """
        if self._arrays:
            raise self.error(f"nobody knows {', '.join(sorted(self._arrays))}"[:200])

    def error(self, text: str) -> SnapshotError:
        """Return an error that names the section. O(1)."""
        return SnapshotError(f"section {self._section} of the snapshot: {text}")


def unique(array: npt.NDArray[Any]) -> bool:
    """Return whether no number occurs twice. O(n log n)."""
    return len(np.unique(array)) == len(array)
