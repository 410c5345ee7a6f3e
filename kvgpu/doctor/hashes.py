"""Self-tests of hash functions: block hashes in bulk must equal those computed block by block."""

from kvgpu.doctor.verdict import Usable
from kvgpu.hashing.functions import BlockHash, get_hash_fn_by_name, hash_block_tokens

SIZE = 16
COUNTS = (40, 1, 25)
PARENT = BlockHash(bytes(range(32)))
EDGES = (0, 23, 24, 255, 256, 65_535, 65_536, 2**31 - 1, -1, -(2**31))
"""Tokens at which serialised integers change their size."""


def usable_hash(name: str) -> Usable:
    """Return whether this hash function can hash in bulk here."""
    from kvgpu.hashing.capabilities import chains_of

    try:
        hash_fn = get_hash_fn_by_name(name)
        chains = chains_of(hash_fn)
        hash_block_tokens(hash_fn, PARENT, EDGES[:1], ("salt",))  # some need a package for extra keys only
    except ModuleNotFoundError as error:
        return False, f"{error.name} is not installed"
    if chains is None:
        return False, "hashed one by one: the serialiser writes other bytes than expected"
    return True, ""


def hash_test(name: str) -> None:
    """Hash random blocks of several requests, with and without extra keys, in bulk and one by one.

    Raises:
        InvariantError: A hash differs.
    """
    import numpy as np

    from kvgpu.device.selftest import expect
    from kvgpu.hashing.bulk.chains import Blocks
    from kvgpu.hashing.capabilities import chains_of
    from kvgpu.hashing.inputs.extra_keys import ExtraKeys

    hash_fn = get_hash_fn_by_name(name)
    chains = chains_of(hash_fn)
    assert chains is not None
    rng = np.random.default_rng(0)
    tokens = [rng.integers(0, 200_000, SIZE * count).astype(np.int32) for count in COUNTS]
    tokens[0][: len(EDGES)] = EDGES
    total = sum(COUNTS)
    salted: list[ExtraKeys] = [("salt",) if block % 7 == 0 else None for block in range(total)]
    for extras in (None, salted):
        blocks = Blocks(tokens, COUNTS, total, SIZE, [PARENT] * len(COUNTS), extras)
        rows = chains.hashes(blocks)
        expect(f"{name} does not hash {total} blocks in bulk", rows is not None)
        assert rows is not None
        keys = iter(extras or [None] * total)
        hashes = (row.tobytes()[: chains.width] for row in rows)
        for request, count in enumerate(COUNTS):
            parent = PARENT
            for block in range(count):
                ids = tokens[request][block * SIZE : (block + 1) * SIZE].tolist()
                parent = hash_block_tokens(hash_fn, parent, ids, next(keys))
                expect(f"{name} of block {block} of request {request} differs in bulk", next(hashes) == parent)
