"""Where the hashes of requests lie, as a batch of lookups takes it."""

import numpy as np
import pytest

from kvgpu.index.request_spans import RequestSpans

FIELDS = "begins", "ends", "max_lengths", "borrowed"


def test_spans_in_an_arena_are_what_was_given_and_nothing_is_borrowed():
    spans = RequestSpans.in_arena([0, 3], [3, 9], 7)
    assert [getattr(spans, name).tolist() for name in FIELDS] == [[0, 3], [3, 9], [7, 7], [0, 0]]
    assert spans.count == 2


@pytest.mark.parametrize("count", [0, 2, 5])
def test_fewer_requests_than_there_is_room_for_use_the_front_of_each_array(count):
    words = np.arange(20)
    spans = RequestSpans(count, words)
    for place, name in enumerate(FIELDS):
        assert getattr(spans, name).tolist() == list(range(5 * place, 5 * place + count))
        assert getattr(spans, name).flags.c_contiguous
    spans.ends[:] = -1
    assert (words == -1).sum() == count
