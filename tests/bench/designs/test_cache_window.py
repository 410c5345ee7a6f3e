"""The window that the second-level cache keeps, as CUDA's driver is told of it."""

import ctypes
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.benchmarks import bench_module
from support.device.tables import torch, triton
from support.rehearsal.cache_driver import CacheDriver

HEADERS = Path(triton.__file__).parent / "backends" / "nvidia" / "include"

CHECKED = """
#include <cstddef>
#include <cuda.h>
static_assert(CU_LIMIT_PERSISTING_L2_CACHE_SIZE == {limit});
static_assert(CU_DEVICE_ATTRIBUTE_MAX_PERSISTING_L2_CACHE_SIZE == {most});
static_assert(CU_DEVICE_ATTRIBUTE_MAX_ACCESS_POLICY_WINDOW_SIZE == {longest});
static_assert(CU_STREAM_ATTRIBUTE_ACCESS_POLICY_WINDOW == {attribute});
static_assert(CU_ACCESS_PROPERTY_NORMAL == 0 && CU_ACCESS_PROPERTY_STREAMING == 1);
static_assert(CU_ACCESS_PROPERTY_PERSISTING == {persisting});
static_assert(sizeof(CUaccessPolicyWindow) == {window_bytes} && sizeof(CUstreamAttrValue) == {value_bytes});
"""
OFFSET = "static_assert(offsetof(CUaccessPolicyWindow, {0}) == {1});\n"


@pytest.fixture
def module():
    return bench_module("on_gpu.designs.cache_window")


@pytest.mark.skipif(shutil.which("g++") is None or not (HEADERS / "cuda.h").exists(), reason="g++ or cuda.h is missing")
def test_numbers_and_structs_are_those_of_cuda(module, tmp_path):
    source = tmp_path / "checked.cpp"
    text = CHECKED.format(
        limit=module.LIMIT_PERSISTING,
        most=module.MOST_PERSISTING,
        longest=module.LONGEST_WINDOW,
        attribute=module.ACCESS_POLICY_WINDOW,
        persisting=module.PERSISTING,
        window_bytes=ctypes.sizeof(module.Window),
        value_bytes=ctypes.sizeof(module.StreamAttribute),
    )
    names = [name for name, _ in module.Window._fields_]
    source.write_text(text + "".join(OFFSET.format(name, getattr(module.Window, name).offset) for name in names))
    command = ["g++", "-std=c++17", "-fsyntax-only", f"-I{HEADERS}", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Stream:
    """torch's, of which one is current."""

    current = None

    def __init__(self):
        self.cuda_stream = 4711

    def wait_stream(self, other):
        assert isinstance(other, Stream)

    def __enter__(self):
        Stream.current = self

    def __exit__(self, *error):
        Stream.current = None


@pytest.fixture
def on(monkeypatch, module):
    """Put a driver in."""
    cuda = SimpleNamespace(
        is_available=lambda: True,
        Stream=Stream,
        current_stream=Stream,
        stream=lambda stream: stream,
        synchronize=lambda: None,
    )
    monkeypatch.setattr(torch, "cuda", cuda)

    def use(driver):
        monkeypatch.setattr(module, "driver", lambda: driver)
        return driver

    return use


def is_restored(driver):
    return driver.limit == driver.PREVIOUS and driver.window in (None, (None, 0, 0.0, 0, 0))


@pytest.mark.parametrize(("count", "room", "ratio"), [(1000, 2**20, 1.0), (1000, 4000, 0.5)])
def test_a_window_lies_on_the_tensor_and_is_taken_away_again(module, on, count, room, ratio):
    driver, tensor = on(CacheDriver(module, room=room)), torch.zeros(count, dtype=torch.int64)
    with module.persisting(tensor):
        assert Stream.current is not None
        assert driver.limit == min(room, 8 * count)
        assert driver.window == (tensor.data_ptr(), 8 * count, ratio, module.PERSISTING, module.STREAMING)
    assert Stream.current is None
    assert is_restored(driver)
    assert driver.resets == 1
    assert {stream for stream, *_ in driver.windows} == {4711}


def test_what_fails_inside_leaves_no_window(module, on):
    driver = on(CacheDriver(module))
    with pytest.raises(ZeroDivisionError), module.persisting(torch.zeros(10)):
        raise ZeroDivisionError
    assert is_restored(driver)
    assert driver.resets == 1


@pytest.mark.parametrize("name", ["cuCtxGetLimit", "cuCtxSetLimit", "cuStreamSetAttribute"])
def test_a_driver_that_refuses_is_an_error_that_names_the_call(module, on, name):
    driver = on(CacheDriver(module, name))
    with pytest.raises(RuntimeError, match=f"{name} fails with CUDA error 700"), module.persisting(torch.zeros(10)):
        pytest.fail("there is no window")
    assert is_restored(driver)


@pytest.mark.parametrize(("count", "room"), [(2**22, 2**20), (10, 0)], ids=["too long", "no cache to set aside"])
def test_a_device_without_such_a_window_is_refused(module, on, count, room):
    driver = on(CacheDriver(module, room=room))
    with pytest.raises(RuntimeError, match="the device has no window"), module.persisting(torch.zeros(count).long()):
        pytest.fail("there is no window")
    assert driver.windows == []


def test_without_a_gpu_nothing_is_set(module, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(module, "driver", lambda: pytest.fail("there is no driver"))
    with module.persisting(torch.zeros(10)):
        pass
