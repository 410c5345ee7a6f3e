"""A snapshot that is not of this manager, or no snapshot, is refused, and nothing is changed."""

import json
import os
import stat
from typing import Any

import numpy as np
import pytest
from snapshot.life import everything
from support.managers import admit, full, make_manager, make_request, window

from kvgpu.errors import ArgumentTypeError, BlockStateError, ConfigError, NoneHashError, SnapshotError
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.kvgpu128.function import Kvgpu128
from kvgpu.snapshot.archive import checksum, packed, unpacked


def made(**options: Any) -> Any:
    return make_manager(*options.pop("specs", [full(4)]), **{"num_blocks": 30, **options})


@pytest.fixture
def path(tmp_path):
    """A snapshot of a manager with five cached blocks."""
    manager = made()
    admit(manager, make_request("a", 21, 4))
    manager.save(tmp_path / "snapshot")
    return tmp_path / "snapshot"


def refused(path: Any, match: str, manager: Any = None, **options: Any) -> None:
    manager = manager or made()
    before = everything(manager)
    with pytest.raises(SnapshotError, match=match):
        manager.load(path, **options)
    assert everything(manager) == before


OTHERS = {
    "num_blocks is 30, not 31": {"num_blocks": 31},
    "hash_block_size is 4, not 2": {"specs": [full(4), window(2, 4)], "hash_block_size": 2},
    "scheduler_block_size": {"scheduler_block_size": 8},
    "groups": {"specs": [full(4), window(4, 8)]},
    "enable_caching": {"enable_caching": False},
    "eagle_groups": {"use_eagle": True},
    "eviction is 'lru', not 'arc'": {"eviction": "arc"},
    "behaviour": {"behaviour": "0.33"},
}


@pytest.mark.parametrize("difference", OTHERS)
def test_another_configuration_is_refused(path, difference):
    refused(path, difference, made(**OTHERS[difference]))


@pytest.mark.parametrize("option", [{"max_model_len": 77}, {"max_num_batched_tokens": 9}, {"log_stats": True}])
def test_what_decides_nothing_about_blocks_may_differ(path, option):
    assert made(**option).load(path) == 5


def test_a_policy_is_refused_by_another(tmp_path):
    made(eviction="slru").save(tmp_path / "a")
    refused(tmp_path / "a", "eviction is 'slru', not 'lfu'", made(eviction="lfu"))


def test_another_hash_function_is_refused(path):
    refused(path, "hashed by 'sha256', these by 'xxhash'", hash_fn=hashing.xxhash)


def test_another_seed_is_refused(path, monkeypatch):
    monkeypatch.setattr(hashing, "NONE_HASH", bytes(32))
    refused(path, "with another key or seed")


def test_another_key_is_refused_and_none_is_written(tmp_path):
    manager = made()
    one, other = Kvgpu128(b"k" * 32), Kvgpu128(b"K" * 32)
    manager.save(tmp_path / "a", hash_fn=one)
    assert b"k" * 32 not in (tmp_path / "a").read_bytes()
    assert hashing.none_hash() not in (tmp_path / "a").read_bytes()
    refused(tmp_path / "a", "with another key or seed", hash_fn=other)
    made().load(tmp_path / "a", hash_fn=Kvgpu128(b"k" * 32))


def test_another_label_is_refused(tmp_path):
    made().save(tmp_path / "a", label="weights 1")
    refused(tmp_path / "a", "of 'weights 1', not of 'weights 2'", label="weights 2")
    made().load(tmp_path / "a", label="weights 1")


def test_without_a_root_hash_nothing_is_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(hashing, "NONE_HASH_FUNCTION", None)
    with pytest.raises(NoneHashError):
        made().save(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_used_manager_is_refused(path):
    for use in (lambda m: admit(m, make_request("b", 3, 4)), lambda m: m.block_pool.get_new_blocks(1)):
        manager = made()
        use(manager)
        before = everything(manager)
        with pytest.raises(BlockStateError, match="unused manager"):
            manager.load(path)
        assert everything(manager) == before


def test_blocks_that_stay_cached_are_in_use_too(path):
    manager, request = made(), make_request("b", 9, 4)
    admit(manager, request)
    manager.free(request)
    with pytest.raises(BlockStateError, match="unused manager"):
        manager.load(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"hello", b"\x80\x04K\x01."])
def test_what_is_no_snapshot_is_refused(path, content):
    path.write_bytes(content)
    refused(path, "no snapshot")


def test_arrays_of_somebody_else_are_refused(path):
    with path.open("wb") as file:
        np.savez(file, a=np.arange(3))
    refused(path, "checksum is wrong")
    path.write_bytes(packed({"a": np.arange(3)}))
    refused(path, "this is no snapshot")


def test_compressed_arrays_are_refused(path):
    arrays = unpacked(path.read_bytes())
    with path.open("wb") as file:
        np.savez_compressed(file, checksum=checksum(arrays), **arrays)
    refused(path, "is none of one")


def test_no_array_takes_more_memory_than_the_file(path):
    """A header that promises a terabyte is compared with the file before memory is taken."""
    data = path.read_bytes()
    header = data.index(b"'shape': (29,)")
    path.write_bytes(data[:header] + b"'shape': (2**40,)"[:14] + data[header + 14 :])
    refused(path, "no snapshot")


def test_a_file_that_is_too_long_is_not_read(path):
    with path.open("r+b") as file:
        file.truncate(1 << 36)
    refused(path, "longer than a snapshot of this manager can be")


@pytest.mark.parametrize(
    ("version", "match"),
    [(1, "has version 1; 2 is read here"), (3, "version 3"), (None, "version None"), ("2", "version '2'")],
)
def test_another_version_is_refused(path, version, match):
    arrays = unpacked(path.read_bytes())
    about = {**json.loads(arrays["about"].tobytes()), "version": version}
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    path.write_bytes(packed(arrays))
    refused(path, match)


def test_an_unknown_section_is_refused(path):
    path.write_bytes(packed({**unpacked(path.read_bytes()), "hints.pins": np.zeros(3, np.int32)}))
    refused(path, "sections that are not known here: hints")


def test_an_unknown_array_of_a_section_is_refused(path):
    path.write_bytes(packed({**unpacked(path.read_bytes()), "order.more": np.zeros(3, np.int32)}))
    refused(path, "section order of the snapshot: nobody knows more")


@pytest.mark.parametrize("name", ["order.ids", "keys.blocks", "keys.hashes", "keys.width", "keys.odd_bytes"])
def test_a_missing_array_is_refused(path, name):
    arrays = unpacked(path.read_bytes())
    del arrays[name]
    path.write_bytes(packed(arrays))
    refused(path, f"section {name.partition('.')[0]} of the snapshot: {name.partition('.')[2]} is missing")


def test_any_byte_that_changed_is_noticed(path):
    data = path.read_bytes()
    for place in range(0, len(data), 97):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        try:
            manager = made()
            manager.load(path)
        except SnapshotError:
            assert everything(manager) == everything(made())
        else:  # something of zip's that says nothing about the contents
            assert packed(unpacked(path.read_bytes())) == data


@pytest.mark.parametrize("odd", [3, None, b"name", object()])
def test_only_names_of_files_are_paths(odd):
    for call in (made().save, made().load):
        with pytest.raises(ArgumentTypeError):
            call(odd)


def test_odd_arguments_are_refused(path):
    for options in ({"label": 3}, {"hash_fn": "sha256"}, {"hash_fn": lambda about: "text"}):
        for call in (made().save, made().load):
            with pytest.raises(ArgumentTypeError):
                call(path, **options)


def test_a_folder_or_a_device_is_neither_read_nor_replaced(tmp_path):
    for place in (tmp_path, os.devnull, "a\0b"):
        for call in (made().save, made().load):
            with pytest.raises(ConfigError):
                call(place)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_a_missing_file_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        made().load(tmp_path / "none")


def test_what_others_may_write_is_not_trusted(path):
    path.chmod(0o622)
    with pytest.raises(PermissionError, match="others may write"):
        made().load(path)


def test_only_the_user_may_read_it(path):
    path.chmod(0o644)
    made().save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_save_that_fails_leaves_the_old_file(path, monkeypatch):
    old = path.read_bytes()

    def full_disk(*about: Any) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        made().save(path)
    assert [each.read_bytes() for each in path.parent.iterdir()] == [old]
