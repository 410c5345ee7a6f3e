// What the memory of this GPU can do at random addresses: the ceilings of bench/gpu.py.

typedef unsigned long long u64;

__device__ __forceinline__ u64 scramble(u64 x) {
    x ^= x >> 30;
    x *= 0xBF58476D1CE4E5B9ull;
    x ^= x >> 27;
    x *= 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

// `count` random lines of 64 bytes out of `lines`: four lanes read one, four lines in flight each.
extern "C" __global__ void read_lines(const ulonglong2* table, u64 lines, u64 count, u64* sink) {
    const u64 thread = blockIdx.x * (u64)blockDim.x + threadIdx.x;
    const u64 lane = thread & 3, stride = gridDim.x * (u64)blockDim.x / 4;
    u64 sum = 0;
    for (u64 i = thread / 4; i < count; i += 4 * stride) {
        ulonglong2 seen[4];
#pragma unroll
        for (int u = 0; u < 4; ++u) {
            const u64 at = i + u * stride;
            seen[u] = at < count ? __ldcg(&table[__umul64hi(scramble(at), lines) * 4 + lane])
                                 : make_ulonglong2(0, 0);
        }
#pragma unroll
        for (int u = 0; u < 4; ++u) sum ^= seen[u].x ^ seen[u].y;
    }
    if (sum == 0x123456789ull) *sink = sum;
}

// `count` compare-and-swaps, each of one word of a random line.
extern "C" __global__ void swap_lines(u64* table, u64 lines, u64 count, u64* sink) {
    const u64 stride = gridDim.x * (u64)blockDim.x;
    u64 sum = 0;
    for (u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x; i < count; i += stride) {
        sum ^= atomicCAS(&table[__umul64hi(scramble(i), lines) * 8], 0ull, i + 1);
    }
    if (sum == 0x123456789ull) *sink = sum;
}
