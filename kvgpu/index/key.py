"""`Key`: what the index finds a block by: a block hash and a cache group."""

from typing import Any, NamedTuple

from kvgpu.compiled.jit import leaf


class Key(NamedTuple):
    """A hash as four 64-bit words (shorter ones are padded with zeros), and the id of a cache group."""

    k0: int
    k1: int
    k2: int
    k3: int
    group: int


@leaf
def key_at(hashes: Any, place: int, group: int) -> Key:
    """Return the key of hash `place` of `hashes`, int64 [n, KEY_WORDS], in a group."""
    return Key(hashes[place, 0], hashes[place, 1], hashes[place, 2], hashes[place, 3], group)


@leaf
def key_of(record: Any) -> Key:
    """Return the key that a block record holds."""
    return Key(record.k0, record.k1, record.k2, record.k3, int(record.group))


@leaf
def has_key(record: Any, key: Key) -> Any:
    """Return whether a block record holds a key. All 32 bytes and the group are compared: a tag is only a hint."""
    return (
        record.k0 == key.k0
        and record.k1 == key.k1
        and record.k2 == key.k2
        and record.k3 == key.k3
        and record.group == key.group
    )


@leaf
def write_key(record: Any, key: Key) -> None:
    """Write a key into the record of a block that is not in the index; the caller sets the flags."""
    record.k0 = key.k0
    record.k1 = key.k1
    record.k2 = key.k2
    record.k3 = key.k3
    record.group = key.group
