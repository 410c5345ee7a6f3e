"""Access to device memory that the kernels share: key words, buckets, and the keys of blocks.

Adjacent words are read by one 16-byte load (`tl.split` of a pair). A lane handles one key. EVICTION is the eviction
policy of a load: "" for the usual one, "evict_first" or "evict_last".
"""

import triton
import triton.language as tl

from kvgpu import layout

BUCKET = tl.constexpr(layout.BUCKET_WORDS)
NO_HINT = tl.constexpr("")
"""Of which lines the caches should evict: a plain string is no default argument for Triton 3.6."""

LANES = 256 if triton.knobs.runtime.interpret else 32
"""Keys per program, one per lane: a program of one warp has loops without barriers. The interpreter
takes as long for one lane as for many."""


@triton.jit
def load_pair(base, active, VOLATILE: tl.constexpr, EVICTION: tl.constexpr = NO_HINT):
    """Load words 0 and 1 at each pointer of `base` [BLOCK]; 0 for idle lanes."""
    pointers = base[:, None] + tl.arange(0, 2)[None, :]
    mask = active[:, None] & (tl.arange(0, 2)[None, :] >= 0)
    return tl.split(tl.load(pointers, mask=mask, other=0, volatile=VOLATILE, eviction_policy=EVICTION))


@triton.jit
def load_key(base, active, KEY_WORDS: tl.constexpr, EVICTION: tl.constexpr = NO_HINT):
    """Load key words k0 to k3 at each pointer; keys of 16 bytes have k2 = k3 = 0."""
    k0, k1 = load_pair(base, active, False, EVICTION)
    if KEY_WORDS == 4:
        k2, k3 = load_pair(base + 2, active, False, EVICTION)
    else:
        k2 = tl.zeros_like(k0)
        k3 = tl.zeros_like(k0)
    return k0, k1, k2, k3


@triton.jit
def load_bucket(words, bucket, active, VOLATILE: tl.constexpr, EVICTION: tl.constexpr = NO_HINT):
    """Load the eight words of each lane's bucket: seven slots and the header."""
    base = words + bucket * BUCKET
    w0, w1 = load_pair(base, active, VOLATILE, EVICTION)
    w2, w3 = load_pair(base + 2, active, VOLATILE, EVICTION)
    w4, w5 = load_pair(base + 4, active, VOLATILE, EVICTION)
    w6, w7 = load_pair(base + 6, active, VOLATILE, EVICTION)
    return w0, w1, w2, w3, w4, w5, w6, w7


@triton.jit
def store_record(records, row, k0, k1, k2, k3, group, active, KEY_WORDS: tl.constexpr):
    """Write the key and group of each lane's block."""
    base = records + row.to(tl.int64) * (2 * KEY_WORDS)
    tl.store(base, k0, mask=active)
    tl.store(base + 1, k1, mask=active)
    if KEY_WORDS == 4:
        tl.store(base + 2, k2, mask=active)
        tl.store(base + 3, k3, mask=active)
    tl.store(base + KEY_WORDS, group.to(tl.int64), mask=active)


@triton.jit
def record_equals(records, row, k0, k1, k2, k3, group, active, KEY_WORDS: tl.constexpr):
    """Return whether all bytes of the key, and the group, equal those of each lane's block."""
    base = records + row.to(tl.int64) * (2 * KEY_WORDS)
    r0, r1, r2, r3 = load_key(base, active, KEY_WORDS)
    owner = tl.load(base + KEY_WORDS, mask=active, other=-1)
    equal = (r0 == k0) & (r1 == k1) & (r2 == k2) & (r3 == k3)
    return equal & (owner == group.to(tl.int64)) & active
