"""What must hold on the device beside the comparisons of each block: a table against a dict, also when contended."""

from collections.abc import Iterator

from on_gpu.sizes import Sizes

from kvgpu.device.selftest import SelfTest


def self_test(engine: str, sizes: Sizes) -> Iterator[str]:
    """Both widths against a dict, with the invariant kernel after each flush.

    Raises:
        InvariantError: A table answered wrong.
    """
    num_blocks, flushes, requests = sizes.self_test
    for key_bytes in (16, 32):
        SelfTest(engine, key_bytes, num_blocks, num_requests=requests).run(flushes)
        yield f"{flushes} flushes of {num_blocks:,} blocks under keys of {key_bytes} bytes"


def contended(engine: str, sizes: Sizes) -> Iterator[str]:
    """Small full tables, half of whose keys change hands in every flush.

    Raises:
        InvariantError: A table answered wrong.
    """
    seeds, num_blocks = sizes.contended
    for seed in range(seeds):
        test = SelfTest(engine, 16, num_blocks, load_factor=0.9, seed=seed)
        for _ in range(3):
            test.flush()
            test.look_up()
            test.table.check()
    yield f"{3 * seeds} flushes, each as the dict says"
