"""Random batches do what the same calls one by one do: results, state, events, statistics, requests.

`KVGPU_TEST_BATCHES` is the number of batches on `host` (default 2000), over all models; `reference` gets a
fifth of them and `triton` a hundredth. By hand, for long:

    KVGPU_TEST_BATCHES=100000 python -m pytest tests/batch/test_equality.py
"""

import os
from zlib import crc32

import pytest
from support.equality.models import MODELS, RETENTION
from support.equality.random_steps import RandomSteps
from support.indexes import CANNOT_RUN

NUM_BATCHES = int(os.environ.get("KVGPU_TEST_BATCHES", "2000"))
WHY_NO_DEVICE = CANNOT_RUN["triton"]()
EPISODE = 30
"""Batches with one pair of managers."""


def serve(name, backend, num_batches, monkeypatch):
    """Episodes with as many batches together."""
    model = MODELS[name]
    if model.retention is not None:
        monkeypatch.setenv(RETENTION, model.retention)
    for number, done in enumerate(range(0, num_batches, EPISODE)):
        seed = crc32(name.encode()) + number
        try:
            RandomSteps(model, backend, seed).run(min(EPISODE, num_batches - done))
        except Exception as error:
            error.add_note(f"model {name}, backend {backend}, seed {seed}")
            raise


def share(part):
    """Batches of each model."""
    return -(-NUM_BATCHES // (part * len(MODELS)))


@pytest.mark.parametrize("name", MODELS)
def test_batches_on_the_host_do_what_single_calls_do(name, monkeypatch):
    serve(name, "host", share(1), monkeypatch)


@pytest.mark.parametrize("name", MODELS)
def test_batches_with_a_dict_do_what_single_calls_do(name, monkeypatch):
    serve(name, "reference", share(5), monkeypatch)


@pytest.mark.skipif(WHY_NO_DEVICE is not None, reason=str(WHY_NO_DEVICE))
@pytest.mark.parametrize("name", MODELS)
def test_batches_beside_a_device_do_what_single_calls_do(name, monkeypatch):
    serve(name, "triton", share(100), monkeypatch)
