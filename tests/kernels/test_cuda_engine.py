"""CuPy takes torch's stream in, the way that its version wants."""

import sys
import warnings
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from support.device.tables import torch

from kvgpu.kernels.cuda_engine import TorchStream

ADDRESS = 77


def deprecated(address):
    warnings.warn("use Stream.from_external", DeprecationWarning, stacklevel=2)
    return nullcontext(address)


def by_protocol(stream):
    version, address = stream.__cuda_stream__()
    assert version == 0
    return nullcontext(address)


@pytest.mark.parametrize(
    "cuda",
    [
        {"Stream": SimpleNamespace(from_external=by_protocol), "ExternalStream": deprecated},
        {"Stream": SimpleNamespace(), "ExternalStream": nullcontext},
    ],
    ids=["14", "13"],
)
def test_the_current_stream_is_entered_without_a_warning(monkeypatch, cuda):
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(**cuda)))
    current = SimpleNamespace(cuda_stream=ADDRESS)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current)
    with TorchStream().in_cupy() as address:
        assert address == ADDRESS
