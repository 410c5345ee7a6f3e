"""Compares what two schedulers say, with exact types: where they differ first."""

import dataclasses
import enum
from functools import cache
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import torch

SCALARS = frozenset({int, float, str, bytes, bool, type(None)})
TIMES = frozenset({"timestamp", "ts"})
"""Fields that are left out: they tell the time of day."""


class Difference(Exception):
    """The sides differ.

    Args:
        what: Where.
        theirs, ours: What vLLM has there, and kvgpu; or the exception that was raised instead.
    """

    def __init__(self, what: str, theirs: Any, ours: Any) -> None:
        super().__init__(f"{what}\n  vLLM:  {_told(theirs)}\n  kvgpu: {_told(ours)}")
        self.what, self.theirs, self.ours = what, theirs, ours


def _told(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 2000 else f"{text[:2000]}... ({len(text):,} characters)"


def _fields(kind: type) -> list[str] | None:
    """The names of the fields of a class that are compared; None for what is no record."""
    if dataclasses.is_dataclass(kind):
        names = [each.name for each in dataclasses.fields(kind)]
    elif issubclass(kind, msgspec.Struct):
        names = list(kind.__struct_fields__)
    else:
        return None
    return [name for name in names if name not in TIMES]


@cache
def _reader(kind: type) -> Any:
    """The names of the fields of a class, and what reads all of them; None for what is no record."""
    names = _fields(kind)
    if names is None:
        return None
    return names, attrgetter(*names) if len(names) > 1 else lambda value: [getattr(value, name) for name in names]


@cache
def _stands_for(ours: type, theirs: type) -> bool:
    """Whether a record of kvgpu has the name and the fields of one of vLLM: that of cache statistics does.

    It has none for where hits come from, as only those from elsewhere say it.
    """
    if ours.__name__ != theirs.__name__ or not dataclasses.is_dataclass(ours):
        return False
    return _fields(ours) == [name for name in _fields(theirs) or () if name != "hits_by_source"]


def difference(theirs: Any, ours: Any, path: str) -> tuple[str, Any, Any] | None:
    """Find the first place at which two values differ.

    Returns:
        The place and both values there; None if they are equal.

    Raises:
        TypeError: Both have a value of a class that nobody has said how to compare.
    """
    kind = type(theirs)
    if kind is not type(ours) and not _stands_for(type(ours), kind):
        return path, theirs, ours
    if kind in SCALARS:
        return None if theirs == ours else (path, theirs, ours)
    if kind is set or kind is frozenset:
        same = theirs == ours and SCALARS.issuperset(map(type, ours))
        return None if same else (path, theirs, ours)
    if kind is dict:
        return difference(list(theirs), list(ours), f"{path} (keys)") or _among(
            theirs.values(), ours.values(), lambda place: f"{path}[{list(theirs)[place]!r}]"
        )
    if issubclass(kind, list | tuple):
        if len(theirs) != len(ours):
            return f"{path} (length)", theirs, ours
        types = list(map(type, theirs))
        if SCALARS.issuperset(types) and theirs == ours and types == list(map(type, ours)):
            return None
        return _among(theirs, ours, lambda place: f"{path}[{place}]")
    if issubclass(kind, enum.Enum):
        return None if theirs is ours else (path, theirs, ours)
    if kind is np.ndarray or kind is torch.Tensor:
        same = theirs.dtype == ours.dtype and theirs.shape == ours.shape and bool((theirs == ours).all())
        return None if same else (path, theirs, ours)
    reader = _reader(kind)
    if reader is None:
        raise TypeError(f"{path} is of {kind}, which cannot be compared")
    names, read = reader
    if kind is not type(ours):
        names, read = _reader(type(ours))
        if getattr(theirs, "hits_by_source", None):
            return f"{path}.hits_by_source", theirs, ours
    return _among(read(theirs), read(ours), lambda place: f"{path}.{names[place]}")


def _among(theirs: Any, ours: Any, name: Any) -> tuple[str, Any, Any] | None:
    """The first difference among the parts of two values; `name` makes the path of a part from its place."""
    for place, (first, second) in enumerate(zip(theirs, ours, strict=True)):
        # Most parts are the same small object.
        if first is second and type(first) in SCALARS:
            continue
        found = difference(first, second, "")
        if found is not None:
            return name(place) + found[0], found[1], found[2]
    return None


def same(what: str, theirs: Any, ours: Any) -> None:
    """Do nothing if two values are equal.

    Raises:
        Difference: They are not.
    """
    found = difference(theirs, ours, "")
    if found is not None:
        path, first, second = found
        raise Difference(what + path, first, second)
