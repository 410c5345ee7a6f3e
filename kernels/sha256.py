"""The launcher of the SHA-256 kernel (CUDA only: a chain of hashes is serial, so one thread computes it)."""

from typing import Any

import numpy as np

from kvgpu.kernels.cuda_engine import launch, pointer

THREADS = 32
"""Threads per block: one warp."""
FEW, MANY = 8, THREADS
"""Chains of a warp. They compress together, and the fewer they are, the less often one waits for the others: 2.8 times
a block for 8 of them and 3.0 for 32, where 2.2 are needed, and a quarter of the lines that a load of tokens touches."""
MOST_WARPS = 528
"""Of few chains each: one for each scheduler of an H100. More than that would take turns."""


def chains_of_warp(chains: int) -> int:
    """Return how many of so many chains a warp hashes."""
    return FEW if chains <= FEW * MOST_WARPS else MANY


def launch_sha256(
    kind: int,
    tokens: Any,
    starts: Any,
    counts: Any,
    bases: Any,
    size: int,
    parents: Any,
    parent_bytes: Any,
    endings: Any,
    spans: Any,
    out: Any,
) -> None:
    """Hash the blocks of several chains on the current stream; if there are no chains, launch nothing.

    Args:
        kind: PICKLE or CBOR of `kvgpu.hashing.serialised.messages`.
        tokens: int32 or int64 [n].
        starts, counts, bases: int64 [chains]: first token, number of blocks, and first row of `out`.
        size: Tokens of a block.
        parents: uint8 [chains, any], parent of each chain.
        parent_bytes: int32 [chains], number of valid bytes of each parent.
        endings: uint8, the endings of messages.
        spans: int64 [1 or blocks, 2], span of each message's ending in `endings`.
        out: int64 [blocks, >= 4], written.
    """
    chains = len(starts)
    if chains:
        at_once = chains_of_warp(chains)
        kernel = "sha256_int32" if tokens.element_size() == 4 else "sha256_int64"
        arguments = (
            np.int32(kind),
            pointer(tokens),
            pointer(starts),
            pointer(counts),
            pointer(bases),
            np.int64(chains),
            np.int32(at_once),
            np.int64(size),
            pointer(parents),
            np.int64(parents.shape[1]),
            pointer(parent_bytes),
            pointer(endings),
            pointer(spans),
            np.int64(len(spans)),
            pointer(out),
            np.int64(8 * out.stride(0)),
        )
        launch("sha256", kernel, (-(-chains // at_once),), arguments, THREADS)
