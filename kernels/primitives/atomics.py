"""Compare-and-swap for some lanes only, which Triton's own has no mask for."""

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def compare_and_swap(pointers, expected, desired, active):
    """Exchange 64-bit words that are as expected, for active lanes; return what each of these lanes has seen.

    Relaxed. Other lanes touch no memory, and what they see is `expected`. One lane an element: a tensor that has fewer
    elements than the program has threads would be exchanged several times.
    """
    if INTERPRETED:
        # Idle lanes exchange a word for itself.
        seen = tl.atomic_cas(pointers, tl.where(active, expected, 0), tl.where(active, desired, 0), sem="relaxed")
        seen = tl.where(active, seen, expected)
    else:
        seen = tl.inline_asm_elementwise(
            "{ .reg .pred p; setp.ne.b32 p, $4, 0; mov.b64 $0, $2; "
            "@p atom.global.relaxed.gpu.cas.b64 $0, [$1], $2, $3; }",
            "=&l,l,l,l,r",
            [pointers.to(tl.int64), expected, desired, active.to(tl.int32)],
            dtype=tl.int64,
            is_pure=False,
            pack=1,
        )
    return seen


@triton.jit
def store_released(pointer, value):
    """Store one 64-bit word so that whoever sees it, a CPU too, sees all that this program has stored before."""
    if INTERPRETED:
        tl.store(pointer, value)
    else:
        # All threads store, and each what it has waited for itself.
        tl.debug_barrier()
        tl.inline_asm_elementwise(
            "st.release.sys.global.b64 [$1], $2; mov.b64 $0, $2;",
            "=l,l,l",
            [pointer.to(tl.int64), value],
            dtype=tl.int64,
            is_pure=False,
            pack=1,
        )
