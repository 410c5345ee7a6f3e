"""Tokens that steps in flight still read are counted a row: the request's own count stays, odd numbers are refused."""

import numpy as np
import pytest
from support.batches import make_batch, refused, track
from support.managers import full, window

from kvgpu.errors import ArgumentError, ArgumentTypeError


@pytest.mark.parametrize("behaviour", ["0.23", "0.33"])
@pytest.mark.parametrize("numbers", [-1, [0, 0, -1], [0, 0, 1 << 40]])
def test_numbers_out_of_range_are_refused(behaviour, numbers):
    batch = make_batch(full(4), window(4, 6), behaviour=behaviour)
    rows = track(batch, 10, 10, 7)
    with refused(batch, ArgumentError, "num_in_flight_tokens"):
        batch.allocate_batch(rows, 1, num_in_flight_tokens=numbers)


def test_they_are_refused_where_no_row_needs_a_block():
    batch = make_batch(full(16))
    rows = track(batch, 17, 18)
    batch.allocate_batch(rows, 18)
    for _ in range(2):  # from the second time on, usual calls are prepared
        batch.append_batch(rows, np.array([5, 6]))
        batch.allocate_batch(rows, 1)
    with refused(batch, ArgumentError, "num_in_flight_tokens"):
        batch.allocate_batch(rows, 1, num_in_flight_tokens=-1)


@pytest.mark.parametrize("backend", ["host", "reference"])
@pytest.mark.parametrize("numbers", [[0, 0], 0.5, "none"])
def test_what_is_not_one_integer_a_row_is_refused(backend, numbers):
    batch = make_batch(full(4), window(4, 6), backend=backend)
    rows = track(batch, 10, 10, 7)
    with refused(batch, ArgumentTypeError, "num_in_flight_tokens"):
        batch.allocate_batch(rows, 1, num_in_flight_tokens=numbers)


@pytest.mark.parametrize("backend", ["host", "reference"])
def test_the_count_of_the_request_itself_stays(backend):
    batch = make_batch(full(4), window(4, 6), behaviour="0.33", backend=backend)
    rows = track(batch, 10)
    batch.rows.requests[0].num_in_flight_tokens = 7
    assert batch.allocate_batch(rows, 10, num_in_flight_tokens=3).fits.all()
    assert batch.rows.requests[0].num_in_flight_tokens == 7
