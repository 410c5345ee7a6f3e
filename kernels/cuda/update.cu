// Applying a flush, one thread per key: the twin of kernels/update.py.
#include "table.cuh"

using kvgpu::TableView;
using kvgpu::word;

template <int KEY_WORDS>
__device__ void update_one(const TableView& table, const word* keys, const int* groups,
                           const int* before, const int* after, word count, int phases) {
    const word i = static_cast<word>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= count || table.meta[KVGPU_META_GATE] != 0) return;
    const kvgpu::Key key = kvgpu::load_key<KEY_WORDS>(keys + i * KEY_WORDS, groups[i]);
    kvgpu::apply_change<KEY_WORDS>(table, key, before[i], after[i], phases);
}

extern "C" __global__ void update_2(TableView table, const word* keys, const int* groups,
                                    const int* before, const int* after, word count, int phases) {
    update_one<2>(table, keys, groups, before, after, count, phases);
}

extern "C" __global__ void update_4(TableView table, const word* keys, const int* groups,
                                    const int* before, const int* after, word count, int phases) {
    update_one<4>(table, keys, groups, before, after, count, phases);
}
