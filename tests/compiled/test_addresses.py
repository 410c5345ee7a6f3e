"""Where arrays lie: what NumPy says, with and without reading it from the objects."""

import numpy as np
import pytest

from kvgpu.compiled import addresses

BASE = np.arange(40, dtype=np.int64).reshape(10, 4)
ARRAYS = [
    BASE,
    BASE[3:],
    BASE[10:],
    BASE[2:4, 1:],
    np.frombuffer(b"only to be read", np.uint8),
    np.empty(0, np.int32),
    np.zeros((), np.float64),
]


@pytest.mark.parametrize("known", [True, False])
def test_addresses_are_those_that_numpy_says(monkeypatch, known):
    assert addresses.KNOWN_LAYOUT
    monkeypatch.setattr(addresses, "KNOWN_LAYOUT", known)
    expected = [array.__array_interface__["data"][0] for array in ARRAYS]
    assert addresses.addresses_of(ARRAYS).tolist() == expected
    assert addresses.addresses_of([]).tolist() == []
