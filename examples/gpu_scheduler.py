"""A scheduler that runs on the GPU: its programs stay, take requests from a queue, and ask the table themselves.

    python examples/gpu_scheduler.py          # TRITON_INTERPRET=1 before it where there is no GPU

Prints for each request how many of its blocks are cached.
"""

import torch
import triton
import triton.language as tl

from kvgpu import BlockHashTable
from kvgpu.kernels.leading_run import find_leading_run

PROGRAMS, NUM_REQUESTS, BLOCKS = 4, 12, 20


@triton.jit
def schedule(
    queue, words, records, num_buckets, seed, keys, offsets, groups, lengths, num_requests, BLOCK: tl.constexpr
):
    """Each program takes the next request until there is none."""
    request = tl.atomic_add(queue, 1)
    while request < num_requests:
        begin, end = tl.load(offsets + request), tl.load(offsets + request + 1)
        length = find_leading_run(
            words,
            records,
            keys + begin * 4,  # hashes of 32 bytes are four words
            1,  # hash of a block
            (end - begin).to(tl.int32),
            groups,
            1,  # group
            lengths,  # no ids are written: any pointer will do
            0,
            0,
            num_buckets,
            tl.cast(seed, tl.int64),
            4,
            BLOCK,
        )
        tl.store(lengths + request, length)
        request = tl.atomic_add(queue, 1)


def main() -> None:
    """Cache the beginning of each request, and let the GPU find out how much that is."""
    table = BlockHashTable(NUM_REQUESTS * BLOCKS)
    where = {"device": table.device}
    keys = torch.randint(-(2**63), 2**63 - 1, (NUM_REQUESTS * BLOCKS, 4), **where)
    blocks = torch.arange(NUM_REQUESTS * BLOCKS, dtype=torch.int32, **where)
    cached = blocks % BLOCKS < blocks // BLOCKS  # request r has r cached blocks
    table.update(keys[cached], blocks[cached])

    offsets = torch.arange(NUM_REQUESTS + 1, **where) * BLOCKS
    queue, lengths = (torch.zeros(n, dtype=torch.int32, **where) for n in (1, NUM_REQUESTS))
    groups = torch.zeros(1, dtype=torch.int64, **where)
    view = table.view
    schedule[(PROGRAMS,)](
        queue,
        view.words,
        view.records,
        view.num_buckets,
        view.seed,
        keys,
        offsets,
        groups,
        lengths,
        NUM_REQUESTS,
        BLOCK=128,
    )
    print(lengths.tolist())


if __name__ == "__main__":
    main()
