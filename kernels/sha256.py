"""The launcher of the SHA-256 kernel (CUDA only: a chain of hashes is serial, and a thread's own)."""

from typing import Any

import numpy as np

from kvgpu.kernels.cuda_engine import launch, pointer

THREADS = 32
"""Few per block: chains are fewer than a GPU has threads, and are best spread over its processors."""


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
    """Hash the blocks of several chains on the current stream; nothing is launched for no chains.

    Args:
        kind: PICKLE or CBOR of `kvgpu.hashing.serialised.messages`.
        tokens: int32 or int64 [n].
        starts, counts, bases: int64 [chains]: first token, blocks, and first row of `out`.
        size: Tokens of a block.
        parents: uint8 [chains, any], of which parent_bytes int32 [chains] count.
        endings: uint8, how messages end; spans: int64 [1 or blocks, 2], where in it.
        out: int64 [blocks, >= 4], written.
    """
    chains = len(starts)
    if chains:
        kernel = "sha256_int32" if tokens.element_size() == 4 else "sha256_int64"
        arguments = (
            np.int32(kind),
            pointer(tokens),
            pointer(starts),
            pointer(counts),
            pointer(bases),
            np.int64(chains),
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
        launch("sha256", kernel, (-(-chains // THREADS),), arguments, THREADS)
