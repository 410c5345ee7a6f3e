// What the memory of this GPU can do at random addresses, and what a launch costs: the ceilings of bench/gpu.py.

typedef unsigned long long u64;

__device__ __forceinline__ u64 scramble(u64 x) {
    x ^= x >> 30;
    x *= 0xBF58476D1CE4E5B9ull;
    x ^= x >> 27;
    x *= 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

// Past the first-level cache.
__device__ __forceinline__ ulonglong2 load(const ulonglong2* from) {
    ulonglong2 seen;
    asm volatile("ld.global.cg.v2.u64 {%0, %1}, [%2];"
                 : "=l"(seen.x), "=l"(seen.y)
                 : "l"(from));
    return seen;
}

// `count` random lines of 64 bytes out of `lines`: LANES lanes read one, FLIGHT lines are in flight in each.
template <int LANES, int FLIGHT>
__device__ __forceinline__ void read_lines(const ulonglong2* table, u64 lines, u64 count,
                                           u64* sink) {
    constexpr int PARTS = 4 / LANES;
    const u64 thread = blockIdx.x * (u64)blockDim.x + threadIdx.x;
    const u64 lane = thread % LANES, stride = gridDim.x * (u64)blockDim.x / LANES;
    u64 sum = 0;
    for (u64 i = thread / LANES; i < count; i += FLIGHT * stride) {
        // All addresses, then all loads, then all uses, with fences that the compiler does not cross: else it takes
        // each load as soon as it can, and has fewer in flight.
        const ulonglong2* from[FLIGHT];
        ulonglong2 seen[FLIGHT][PARTS];
#pragma unroll
        for (int u = 0; u < FLIGHT; ++u) {
            const u64 next = i + u * stride, at = next < count ? next : count - 1;
            from[u] = &table[__umul64hi(scramble(at), lines) * 4 + lane * PARTS];
        }
        __threadfence_block();
#pragma unroll
        for (int u = 0; u < FLIGHT; ++u) {
#pragma unroll
            for (int part = 0; part < PARTS; ++part) seen[u][part] = load(from[u] + part);
        }
        __threadfence_block();
#pragma unroll
        for (int u = 0; u < FLIGHT; ++u) {
#pragma unroll
            for (int part = 0; part < PARTS; ++part) sum ^= seen[u][part].x ^ seen[u][part].y;
        }
    }
    if (sum == 0x123456789ull) *sink = sum;
}

#define READ(lanes, flight)                                                                       \
    extern "C" __global__ void __launch_bounds__(256, 1) read_##lanes##_##flight(const ulonglong2* table, u64 lines,        \
                                                       u64 count, u64* sink) {                    \
        read_lines<lanes, flight>(table, lines, count, sink);                                     \
    }
READ(1, 4)
READ(1, 8)
READ(4, 4)
READ(4, 8)

// `count` compare-and-swaps, each of one word of a random line.
extern "C" __global__ void swap_lines(u64* table, u64 lines, u64 count, u64* sink) {
    const u64 stride = gridDim.x * (u64)blockDim.x;
    u64 sum = 0;
    for (u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x; i < count; i += stride) {
        sum ^= atomicCAS(&table[__umul64hi(scramble(i), lines) * 8], 0ull, i + 1);
    }
    if (sum == 0x123456789ull) *sink = sum;
}

extern "C" __global__ void nothing() {}
