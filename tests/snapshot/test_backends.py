"""Snapshots are of no backend: what one has saved another one loads, and a device answers from the same keys."""

import pytest
from snapshot.life import DOCUMENTS, Life, everything
from support.indexes import device_backends
from support.managers import admit, full, make_manager, make_request, window


def made(backend):
    return make_manager(full(4), window(4, 10), num_blocks=120, backend=backend)


@pytest.fixture
def saved(tmp_path):
    """A manager on the host that has lived, and its snapshot."""
    manager = made("host")
    life = Life(manager, 2)
    for _ in range(60):
        life.step()
    manager.save(tmp_path / "a")
    life.end()
    return manager, tmp_path / "a"


@device_backends
def test_a_device_answers_from_the_loaded_keys(saved, backend, monkeypatch):
    host, path = saved
    manager = made(backend)
    assert manager.load(path) > 10
    manager.check()  # compares the table on the device with the host's
    requests = [make_request("probe", tokens[:length], 4) for tokens in DOCUMENTS for length in (9, 50, 90)]
    expected = [host.get_computed_blocks(request) for request in requests]
    monkeypatch.setattr("kvgpu.index.host.index.match_one", None)
    found = [manager.get_computed_blocks(request) for request in requests]
    assert [(b.get_block_ids(), hits) for b, hits in found] == [(b.get_block_ids(), hits) for b, hits in expected]
    assert sum(hits for _, hits in found) > 0


@device_backends
def test_a_table_that_is_on_the_device_already_gets_the_keys(saved, backend):
    host, path = saved
    manager, request = made(backend), make_request("before", 30, 4)
    admit(manager, request)
    manager.get_computed_blocks(make_request("again", 30, 4))
    manager.free(request)
    assert manager.reset_prefix_cache()
    manager.load(path)
    manager.check()
    assert everything(manager) == everything(host)


@device_backends
def test_a_manager_on_a_device_is_saved(tmp_path, backend):
    device, host = made(backend), made("host")
    for manager in (device, host):
        admit(manager, make_request("a", 50, 4))
        manager.save(tmp_path / manager.block_pool.index.name)
    assert (tmp_path / backend).read_bytes() == (tmp_path / "host").read_bytes()
