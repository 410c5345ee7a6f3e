"""A `save` or a `load` that an exception from outside cuts short: the manager works, and a file is whole."""

import os

import pytest
from snapshot.life import Life, everything
from support.interrupts import every_line
from support.managers import full, make_manager, mamba, per_backend

from kvgpu.config.cache_hints import HintLimits

STEP = int(os.environ.get("KVGPU_INTERRUPT_STEP", "41"))
"""Lines between those at which a call is interrupted: 1 for every line."""

MODELS = {
    "hints": ((full(4),), {"eviction": "arc", "num_blocks": 60, "max_model_len": 150}),
    "aliases": ((full(8), mamba(8, "align")), {"behaviour": "0.33", "hash_block_size": 4, "num_blocks": 30}),
}
every_model = pytest.mark.parametrize("model", MODELS)


def made(model, backend):
    specs, options = MODELS[model]
    hints = {"hints": HintLimits({"a": 0.2}, clock=lambda: 5.0)} if model == "hints" else {}
    return make_manager(*specs, backend=backend, **options, **hints)


def lived(model, backend):
    manager = made(model, backend)
    life = Life(manager, 3)
    while life.made < 40 or not life.is_rich():
        life.step()
    return life


@pytest.fixture
def saved(model, backend, tmp_path):
    """A snapshot."""
    lived(model, backend).manager.save(tmp_path / "a")
    return tmp_path / "a"


@every_model
@per_backend
def test_after_an_interrupt_of_load_the_manager_works(model, backend, saved):
    for _, manager in every_line(lambda: made(model, backend), lambda m: m.load(saved), STEP):
        manager.check()
        life = Life(manager, 4)
        for _ in range(20):
            life.step()
        life.end()
        manager.check()
        usable = manager.block_pool.get_num_free_blocks()
        assert usable == manager.block_pool.num_gpu_blocks - 1
        assert sorted(manager.block_pool.allocate(usable).tolist()) == list(range(1, usable + 1))


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@every_model
@per_backend
def test_an_interrupt_of_save_changes_neither_the_manager_nor_the_old_file(model, backend, saved):
    old = saved.read_bytes()
    life = lived(model, backend)
    before = everything(life.manager)
    for _, manager in every_line(lambda: life.manager, lambda m: m.save(saved), STEP):
        assert saved.read_bytes() == old
        assert everything(manager) == before
        manager.check()
