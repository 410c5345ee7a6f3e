// Looking keys up, one thread per key: the twins of find_kernel, probe_kernel and leading_run_kernel.
#include "table.cuh"

using kvgpu::TableView;
using kvgpu::word;

template <int KEY_WORDS>
__device__ void find_one(const TableView& table, const word* keys, const int* groups, int one_group,
                         int* ids, word count) {
    const word i = static_cast<word>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const word group = groups[one_group ? 0 : i];
    ids[i] = kvgpu::find_block<KEY_WORDS>(
        table, kvgpu::load_key<KEY_WORDS>(keys + i * KEY_WORDS, group));
}

extern "C" __global__ void find_2(TableView table, const word* keys, const int* groups,
                                  int one_group, int* ids, word count) {
    find_one<2>(table, keys, groups, one_group, ids, count);
}

extern "C" __global__ void find_4(TableView table, const word* keys, const int* groups,
                                  int one_group, int* ids, word count) {
    find_one<4>(table, keys, groups, one_group, ids, count);
}

// Grid: requests x queries x `at_once`, in one dimension: so many blocks of threads share the tiles of a request. A
// request whose keys are out of range has none here; the kernel that decides reports it.
template <int KEY_WORDS>
__device__ void probe_one(const TableView& table, const word* plan, const word* keys,
                          const word* begins, const word* ends, int* hits, word num_keys,
                          word longest, int at_once) {
    const word num_queries = plan[KVGPU_PLAN_NUM_QUERIES];
    const word rest = blockIdx.x / at_once, request = rest / num_queries;
    const word begin = begins[request];
    word length = ends[request] - begin;
    if (begin < 0 || length < 0 || begin + length > num_keys) return;
    length = length < longest ? length : longest;
    const word* query = plan + KVGPU_PLAN_HEADER + rest % num_queries * KVGPU_QUERY_WORDS;
    const word* groups = plan + KVGPU_PLAN_HEADER + num_queries * KVGPU_QUERY_WORDS;
    const word stride = query[KVGPU_QUERY_STRIDE], first_line = query[KVGPU_QUERY_FIRST_LINE];
    const word end_line = first_line + query[KVGPU_QUERY_NUM_LINES];
    for (word tile = blockIdx.x % at_once;; tile += at_once) {
        const word place = (tile * blockDim.x + threadIdx.x + 1) * stride - 1;
        if (place >= length) return;
        for (word line = first_line; line < end_line; ++line) {
            const kvgpu::Key key = kvgpu::load_key<KEY_WORDS>(keys + (begin + place) * KEY_WORDS, groups[line]);
            hits[line * num_keys + begin + place] = kvgpu::find_block<KEY_WORDS>(table, key);
        }
    }
}

extern "C" __global__ void probe_2(TableView table, const word* plan, const word* keys,
                                   const word* begins, const word* ends, int* hits, word num_keys,
                                   word longest, int at_once) {
    probe_one<2>(table, plan, keys, begins, ends, hits, num_keys, longest, at_once);
}

extern "C" __global__ void probe_4(TableView table, const word* plan, const word* keys,
                                   const word* begins, const word* ends, int* hits, word num_keys,
                                   word longest, int at_once) {
    probe_one<4>(table, plan, keys, begins, ends, hits, num_keys, longest, at_once);
}

// A plan of one query, with full attention: one block of threads for each request, which stops at the first miss.
template <int KEY_WORDS>
__device__ void leading_run(const TableView& table, const word* plan, const word* keys, const word* begins,
                            const word* ends, const word* max_lengths, word* num_tokens, int* firsts,
                            int* lengths, int* ids, word num_keys, word longest) {
#ifdef __CUDACC__
    __shared__ unsigned least;
    const kvgpu::OneBlock team{&least};
#else
    const kvgpu::OneThread team;
#endif
    const word request = blockIdx.x, begin = begins[request];
    word length = ends[request] - begin;
    if (begin < 0 || length < 0 || begin + length > num_keys) {
        kvgpu::set_bits(table.meta + KVGPU_META_STATUS, KVGPU_STATUS_BAD_OFFSETS);
        return;
    }
    length = length < longest ? length : longest;
    const word* query = plan + KVGPU_PLAN_HEADER;
    const word size = query[KVGPU_QUERY_BLOCK_SIZE], stride = query[KVGPU_QUERY_STRIDE];
    const word step = query[KVGPU_QUERY_STEP], lines = query[KVGPU_QUERY_NUM_LINES];
    word allowed = max_lengths[request];
    allowed = allowed < 0 ? 0 : allowed < KVGPU_MAX_TOKENS ? allowed : KVGPU_MAX_TOKENS;
    const word limit = allowed / size < length / stride ? allowed / size : length / stride;
    const word run = kvgpu::find_leading_run<KEY_WORDS>(table, team, keys + begin * KEY_WORDS, stride, limit,
                                                        query + KVGPU_QUERY_WORDS, lines,
                                                        ids == nullptr ? nullptr : ids + begin, num_keys);
    const word dropped = run - query[KVGPU_QUERY_DROP];
    const word hit = dropped < 0 ? 0 : dropped / step * step;
    if (team.rank() == 0) {
        num_tokens[request] = hit * size;
        firsts[request] = 0;
        lengths[request] = static_cast<int>(hit);
    }
    if (ids == nullptr) return;
    // Which thread has written an id of the last step depends on the step; after `least` all have.
    for (word line = 0; line < lines; ++line)
        for (word block = hit + team.rank(); block < length; block += team.size())
            ids[line * num_keys + begin + block] = -1;
}

extern "C" __global__ void leading_run_2(TableView table, const word* plan, const word* keys, const word* begins,
                                         const word* ends, const word* max_lengths, word* num_tokens, int* firsts,
                                         int* lengths, int* ids, word num_keys, word longest) {
    leading_run<2>(table, plan, keys, begins, ends, max_lengths, num_tokens, firsts, lengths, ids, num_keys, longest);
}

extern "C" __global__ void leading_run_4(TableView table, const word* plan, const word* keys, const word* begins,
                                         const word* ends, const word* max_lengths, word* num_tokens, int* firsts,
                                         int* lengths, int* ids, word num_keys, word longest) {
    leading_run<4>(table, plan, keys, begins, ends, max_lengths, num_tokens, firsts, lengths, ids, num_keys, longest);
}
