"""The file of a snapshot: named arrays, uncompressed in a zip as NumPy's npz has them, with a checksum."""

import hashlib
import io
import zipfile
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.errors import SnapshotError

Arrays = dict[str, npt.NDArray[Any]]

CHECKSUM = "checksum"
SUFFIX = ".npy"
MOST_MEMBERS = 100
DTYPES = ("|u1", "<i2", "<i4", "<i8")
NPY_VERSION = (1, 0)


def checksum(arrays: Arrays) -> npt.NDArray[np.uint8]:
    """Return the SHA-256 of names, types, shapes and contents, uint8 [32]. O(bytes)."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


def packed(arrays: Arrays) -> bytes:
    """Return the bytes of a file with these arrays, whose types are DTYPES, and their checksum. O(bytes)."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in (*arrays.items(), (CHECKSUM, checksum(arrays))):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), NPY_VERSION, allow_pickle=False)
            # Without a date, so that equal snapshots are equal files.
            archive.writestr(zipfile.ZipInfo(name + SUFFIX), member.getbuffer())
    return file.getvalue()


def unpacked(data: bytes) -> Arrays:
    """Return the arrays of a file, after comparing their checksum.

    Nothing is decompressed and nothing is unpickled: the arrays together are never longer than the file.

    Raises:
        SnapshotError: The bytes are not those of such a file.

    O(bytes).
    """
    try:
        arrays = _members(data)
    except (SnapshotError, MemoryError):
        raise
    except Exception as error:  # zipfile and NumPy's reader of headers raise whatever occurs to them
        raise SnapshotError(f"this is no snapshot, or it is damaged: {error}") from error
    known = arrays.pop(CHECKSUM, None)
    if known is None or known.tobytes() != checksum(arrays).tobytes():
        raise SnapshotError("the checksum is wrong: this is no snapshot, or it is damaged")
    return arrays


def _members(data: bytes) -> Arrays:
    arrays: Arrays = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        if len(members) > MOST_MEMBERS or sum(member.file_size for member in members) > len(data):
            raise SnapshotError("this is no snapshot: it has more members than one, or they are longer than the file")
        for member in members:
            name = member.filename.removesuffix(SUFFIX)
            if member.compress_type != zipfile.ZIP_STORED or name == member.filename or name in arrays:
                raise SnapshotError(f"this is no snapshot: member {member.filename!r:.100} is none of one")
            arrays[name] = _array_of(archive.read(member))
    return arrays


def _array_of(raw: bytes) -> npt.NDArray[Any]:
    """Return the array in the bytes of a file of NumPy's, after comparing its length with what its header says."""
    file = io.BytesIO(raw)
    if np.lib.format.read_magic(file) != NPY_VERSION:
        raise SnapshotError("this is no snapshot: an array is written in another version")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.str not in DTYPES or by_columns or any(size < 0 for size in shape):
        raise SnapshotError("this is no snapshot: it has an array of another kind than one")
    if prod(shape) * dtype.itemsize != len(raw) - file.tell():
        raise SnapshotError("this is no snapshot, or it is damaged: an array has another length than it says")
    return np.frombuffer(raw, dtype, offset=file.tell()).reshape(shape)
