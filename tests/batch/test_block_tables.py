"""Block tables that are kept up to date in place."""

import numpy as np
import pytest
from support.batches import make_batch, poisoned, track
from support.managers import admit, full, make_request, mamba, per_backend, window

EMPTY = -77


def as_kind(kind, tables):
    if kind == "numpy":
        return tables
    torch = pytest.importorskip("torch")
    return [torch.from_numpy(table) for table in tables]


every_kind = pytest.mark.parametrize("kind", ["numpy", "torch"])


@per_backend
@every_kind
class TestTables:
    def test_blocks_are_written_to_the_rows_of_their_requests(self, backend, kind):
        batch = make_batch(full(4), backend=backend, max_requests=3)
        out = as_kind(kind, poisoned(batch, 3))
        rows = track(batch, 9, 4, 5)
        batch.allocate_batch(rows[[2, 0]], 9, out=out)
        assert out[0].tolist() == [[3, 4, 5], [EMPTY] * 3, [1, 2, EMPTY]]

    def test_hits_are_written_too(self, backend, kind):
        batch = make_batch(full(4), backend=backend, max_requests=2)
        out = as_kind(kind, poisoned(batch, 3))
        batch.allocate_batch(track(batch, list(range(9)), list(range(10))), 9, out=out)
        assert out[0].tolist() == [[1, 2, 3], [1, 2, 4]]

    def test_each_group_has_a_table(self, backend, kind):
        batch = make_batch(full(4), window(4, 5), backend=backend, max_requests=1)
        out = as_kind(kind, poisoned(batch, 2))
        batch.allocate_batch(track(batch, 8), 8, out=tuple(out))
        assert [table.tolist() for table in out] == [[[1, 2]], [[3, 4]]]

    def test_null_blocks_are_written_where_blocks_have_left_the_window(self, backend, kind):
        batch = make_batch(full(4), window(4, 5), backend=backend, max_requests=1)
        out = as_kind(kind, poisoned(batch, 4))
        rows = track(batch, 12)
        batch.allocate_batch(rows, 12, out=out)
        batch.append_batch(rows, [1])
        batch.allocate_batch(rows, 1, out=out)
        assert [table.tolist() for table in out] == [[[1, 2, 3, 7]], [[0, 0, 6, 8]]]

    def test_null_blocks_are_written_even_if_the_row_does_not_fit(self, backend, kind):
        batch = make_batch(full(4), window(4, 5), num_blocks=7, backend=backend, max_requests=1)
        out = as_kind(kind, poisoned(batch, 30))
        rows = track(batch, 12)
        batch.allocate_batch(rows, 12, out=out)
        assert not batch.allocate_batch(rows, 90, out=out).fits[0]
        assert out[1][0, :3].tolist() == [0, 0, 6]

    def test_rows_that_did_not_fit_are_not_written(self, backend, kind):
        batch = make_batch(full(4), num_blocks=3, backend=backend, max_requests=2)
        out = as_kind(kind, poisoned(batch, 3))
        batch.allocate_batch(track(batch, 8, 9), 9, out=out)
        assert out[0].tolist() == [[1, 2, EMPTY], [EMPTY] * 3]

    def test_larger_tables_are_written_in_the_same_places(self, backend, kind):
        batch = make_batch(full(4), backend=backend, max_requests=2)
        out = as_kind(kind, poisoned(batch, 5, rows=4))
        batch.allocate_batch(track(batch, 8, 4), 8, out=out)
        assert out[0][:2, :3].tolist() == [[1, 2, EMPTY], [3, EMPTY, EMPTY]]
        assert (np.asarray(out[0])[2:] == EMPTY).all()

    def test_moved_states_are_written(self, backend, kind):
        batch = make_batch(full(4), mamba(4, "align", 1), backend=backend, max_requests=1)
        out = as_kind(kind, poisoned(batch, 8))
        rows = track(batch, 6)
        batch.allocate_batch(rows, 6, out=out)
        for _ in range(9):
            batch.append_batch(rows, [1])
            batch.allocate_batch(rows, 1, out=out)
        held = batch.manager.get_block_ids("r0")
        assert [t[0, : len(ids)].tolist() for t, ids in zip(out, held, strict=True)] == list(held)

    def test_a_request_that_came_with_blocks_has_all_of_them_in_the_table(self, backend, kind):
        batch = make_batch(full(4), backend=backend, max_requests=1)
        request = make_request("a", 8, 4)
        admit(batch.manager, request)
        rows = batch.track([request])
        batch.append_batch(rows, [1])
        out = as_kind(kind, poisoned(batch, 3))
        batch.allocate_batch(rows, 1, out=out)
        assert out[0].tolist() == [[1, 2, 3]]
