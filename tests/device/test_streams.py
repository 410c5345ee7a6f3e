"""Which stream an address stands for, and what waits for it."""

from types import SimpleNamespace

import pytest
from support.device.tables import torch

from kvgpu.device import tensors
from kvgpu.errors import ArgumentError

DEVICE = torch.device("cuda", 0)


class Stream:
    """One of torch's. name: where it comes from."""

    def __init__(self, name, device=DEVICE):
        self.name, self.device, self.waited = name, device, []

    def wait_stream(self, other):
        self.waited.append(other.name)


@pytest.fixture
def current(monkeypatch):
    """The current stream of a GPU that is not there."""
    stream = Stream("current")
    cuda = SimpleNamespace(
        Stream=Stream,
        current_stream=lambda device: stream,
        default_stream=lambda device: Stream("default", device),
        ExternalStream=lambda address, device: Stream(address, device),
        stream=lambda entered: entered,
    )
    monkeypatch.setattr(torch, "cuda", cuda)
    return stream


@pytest.mark.parametrize(("address", "name"), [(0, "default"), (4711, 4711), (None, "current")])
def test_an_address_names_a_stream_and_0_the_default_one(current, address, name):
    assert tensors.on_stream(address, DEVICE).name == name


def test_a_stream_with_an_address_is_taken_by_it(current):
    assert tensors.on_stream(SimpleNamespace(ptr=0), DEVICE).name == "default"


def test_a_stream_of_another_device_is_refused(current):
    with pytest.raises(ArgumentError, match="belongs to"):
        tensors.on_stream(Stream("other", torch.device("cuda", 1)), DEVICE)


@pytest.mark.parametrize(("address", "name"), [(0, "default"), (4711, 4711)])
def test_the_current_stream_waits_for_the_one_at_an_address(current, address, name):
    tensors.wait_for_stream(address, DEVICE)
    assert current.waited == [name]


def test_on_the_cpu_all_streams_are_one():
    assert tensors.stream_of(torch.device("cpu"))() == 0
