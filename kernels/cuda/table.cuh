// The block-hash table as device functions: the twins of kernels/slot_hash.py, find.py, update.py.
//
// Compiles as CUDA C++ (NVRTC, nvcc) and as C++20, where std::atomic_ref stands for device atomics,
// so that the races of an update can be searched with threads. The constants KVGPU_* are given by
// the compiler's command line: kvgpu/layout.py states them once (kernels/cuda_engine.py: defines).
#pragma once

#ifdef __CUDACC__
#define KVGPU_DEVICE __device__ __forceinline__
#else
#include <atomic>
#define KVGPU_DEVICE inline
#endif

namespace kvgpu {

using word = long long;
using uword = unsigned long long;

// What a kernel takes of a table, owning nothing: VIEW_STRUCT of kernels/view.py.
struct TableView {
    word* words;    // [num_buckets][8]: seven slots and a header
    word* records;  // [num_blocks][2 * KEY_WORDS]: key, group
    word* meta;     // [8]: KVGPU_META_*
    word num_buckets;
    word num_blocks;
    word seed;
};

// Words that other threads of the same launch change. Relaxed: each stands for itself, and the end
// of the launch publishes all.
#ifdef __CUDACC__
KVGPU_DEVICE word load_shared_word(const word* at) { return *reinterpret_cast<const volatile word*>(at); }
KVGPU_DEVICE word compare_and_swap(word* at, word expected, word desired) {
    return static_cast<word>(atomicCAS(reinterpret_cast<uword*>(at), static_cast<uword>(expected),
                                       static_cast<uword>(desired)));
}
KVGPU_DEVICE void add(word* at, word amount) {
    atomicAdd(reinterpret_cast<uword*>(at), static_cast<uword>(amount));
}
KVGPU_DEVICE void set_bits(word* at, word bits) {
    atomicOr(reinterpret_cast<uword*>(at), static_cast<uword>(bits));
}
#else
KVGPU_DEVICE word load_shared_word(const word* at) {
    return std::atomic_ref<word>(*const_cast<word*>(at)).load(std::memory_order_relaxed);
}
KVGPU_DEVICE word compare_and_swap(word* at, word expected, word desired) {
    std::atomic_ref<word>(*at).compare_exchange_strong(expected, desired, std::memory_order_relaxed);
    return expected;
}
KVGPU_DEVICE void add(word* at, word amount) {
    std::atomic_ref<word>(*at).fetch_add(amount, std::memory_order_relaxed);
}
KVGPU_DEVICE void set_bits(word* at, word bits) {
    std::atomic_ref<word>(*at).fetch_or(bits, std::memory_order_relaxed);
}
#endif

// A key: four words; 16-byte hashes leave the last two 0.
struct Key {
    word k[4];
    word group;
};

template <int KEY_WORDS>
KVGPU_DEVICE Key load_key(const word* at, word group) {
    Key key{{at[0], at[1], 0, 0}, group};
    if constexpr (KEY_WORDS == 4) {
        key.k[2] = at[2];
        key.k[3] = at[3];
    }
    return key;
}

#ifdef __CUDACC__
KVGPU_DEVICE uword high_product(uword a, uword b) { return __umul64hi(a, b); }
#else
KVGPU_DEVICE uword high_product(uword a, uword b) {
    return static_cast<uword>((static_cast<unsigned __int128>(a) * b) >> 64);
}
#endif

// One of the words that a seed stands for: SplitMix64 at this place.
KVGPU_DEVICE uword secret_word(word seed, uword place) {
    uword w = static_cast<uword>(seed) + place * static_cast<uword>(KVGPU_SEED_STEP);
    w = (w ^ (w >> 30)) * static_cast<uword>(KVGPU_SEED_MIX_1);
    w = (w ^ (w >> 27)) * static_cast<uword>(KVGPU_SEED_MIX_2);
    return w ^ (w >> 31);
}

// The upper half chooses the bucket, the lower half is the tag, which is odd.
KVGPU_DEVICE uword slot_hash(const Key& key, word seed) {
    uword high = 0, low = static_cast<uword>(key.group);
    for (int i = 0; i < 4; i += 2) {
        const uword a = static_cast<uword>(key.k[i]) + secret_word(seed, i + 1);
        const uword b = static_cast<uword>(key.k[i + 1]) + secret_word(seed, i + 2);
        const uword product = a * b;
        low += product;
        high += high_product(a, b) + (low < product);
    }
    high ^= low >> 32;
    const uword factor = secret_word(seed, KVGPU_FACTOR_LOW) | 1;
    return (high_product(low, factor) + low * secret_word(seed, KVGPU_FACTOR_HIGH) + high * factor) | 1;
}

KVGPU_DEVICE word bucket_of(uword h, word num_buckets) {
    return static_cast<word>(((h >> 32) * static_cast<uword>(num_buckets)) >> 32);
}

KVGPU_DEVICE word word_of(uword h, word block) {
    return static_cast<word>((h << KVGPU_TAG_SHIFT) | static_cast<uword>(block + 1));
}

// A header in which the counter of a slot hash is 1, and the others are 0.
KVGPU_DEVICE uword counter_unit(uword h) {
    return uword{1} << (KVGPU_OVERFLOW_BITS * ((h >> KVGPU_OVERFLOW_SHIFT) & (KVGPU_OVERFLOW_COUNTERS - 1)));
}

KVGPU_DEVICE word next_bucket(word bucket, word num_buckets) {
    return bucket + 1 == num_buckets ? 0 : bucket + 1;
}

// Two words that are read at once; all lines and records begin at multiples of 16 bytes.
struct alignas(16) Pair {
    word x, y;
};

KVGPU_DEVICE Pair load_pair(const word* at) { return *reinterpret_cast<const Pair*>(at); }

template <int KEY_WORDS>
KVGPU_DEVICE bool record_equals(const TableView& table, word block, const Key& key) {
    const word* record = table.records + block * (2 * KEY_WORDS);
    const Pair low = load_pair(record), owner = load_pair(record + KEY_WORDS);
    bool same = (low.x == key.k[0]) & (low.y == key.k[1]) & (owner.x == key.group);
    if constexpr (KEY_WORDS == 4) {
        const Pair high = load_pair(record + 2);
        same &= (high.x == key.k[2]) & (high.y == key.k[3]);
    }
    return same;
}

KVGPU_DEVICE int lowest_bit(unsigned bits) {
#ifdef __CUDACC__
    return __ffs(static_cast<int>(bits)) - 1;
#else
    return __builtin_ctz(bits);
#endif
}

// Id of the first block under a key, or -1. Not beside an update. A line is read whole, in four loads that do not wait for
// each other; then the slots with the tag, which is odd and so in no empty word, are compared one by one.
template <int KEY_WORDS>
KVGPU_DEVICE int find_block(const TableView& table, const Key& key) {
    const uword h = slot_hash(key, table.seed);
    const uword tag = h & 0xFFFFFFFFull;
    const uword counter = KVGPU_OVERFLOW_FULL * counter_unit(h);
    word bucket = bucket_of(h, table.num_buckets);
    for (word step = 0; step < table.num_buckets; ++step) {
        const word* line = table.words + bucket * KVGPU_BUCKET_WORDS;
        const Pair a = load_pair(line), b = load_pair(line + 2), c = load_pair(line + 4), d = load_pair(line + 6);
        const word entries[KVGPU_SLOTS_PER_BUCKET] = {a.x, a.y, b.x, b.y, c.x, c.y, d.x};
        unsigned candidates = 0;
#pragma unroll
        for (int slot = 0; slot < KVGPU_SLOTS_PER_BUCKET; ++slot)
            candidates |= static_cast<unsigned>((static_cast<uword>(entries[slot]) >> KVGPU_TAG_SHIFT) == tag) << slot;
        while (candidates != 0) {
            const int chosen = lowest_bit(candidates);
            word entry = 0;
#pragma unroll
            for (int slot = 0; slot < KVGPU_SLOTS_PER_BUCKET; ++slot) entry = slot == chosen ? entries[slot] : entry;
            const word block = static_cast<word>(static_cast<uword>(entry) & 0xFFFFFFFFull) - 1;
            if (record_equals<KEY_WORDS>(table, block, key)) return static_cast<int>(block);
            candidates &= candidates - 1;
        }
        if ((static_cast<uword>(d.y) & counter) == 0) return -1;
        bucket = next_bucket(bucket, table.num_buckets);
    }
    return -1;
}

// Threads that look up one request together: `rank` of `size`, and what is the least of their numbers.
struct OneThread {
    KVGPU_DEVICE word rank() const { return 0; }
    KVGPU_DEVICE word size() const { return 1; }
    KVGPU_DEVICE word least(word number) const { return number; }
};

#ifdef __CUDACC__
struct OneWarp {
    KVGPU_DEVICE word rank() const { return threadIdx.x % 32; }
    KVGPU_DEVICE word size() const { return 32; }
    KVGPU_DEVICE word least(word number) const {
        return __reduce_min_sync(0xFFFFFFFFu, static_cast<unsigned>(number));
    }
};

// All threads of a block, which share `number`.
struct OneBlock {
    unsigned* number;
    KVGPU_DEVICE word rank() const { return threadIdx.x; }
    KVGPU_DEVICE word size() const { return blockDim.x; }
    KVGPU_DEVICE word least(word mine) const {
        if (threadIdx.x == 0) *number = 0xFFFFFFFFu;
        __syncthreads();
        const word of_warp = OneWarp().least(mine);
        if (threadIdx.x % 32 == 0) atomicMin(number, static_cast<unsigned>(of_warp));
        __syncthreads();
        const word least = *number;
        __syncthreads();
        return least;
    }
};
#endif

// How many of a request's first blocks, of at most `limit` (below 2^31), are cached in all of some groups. All threads of
// a team call this for the same request, and get the same answer. Looks up the keys of one step beyond the first miss at
// most. keys: the request's first hash; the last of every `stride` hashes is looked up. ids: null, or block 0 of the
// request in the first group's line, `line_words` before the next group's: ids of the run, and any value behind it in the
// step where it ends.
template <int KEY_WORDS, class Team>
KVGPU_DEVICE word find_leading_run(const TableView& table, const Team& team, const word* keys, word stride,
                                   word limit, const word* groups, word num_groups, int* ids, word line_words) {
    word end = limit;
    for (word step = 0; step < end; step += team.size()) {
        const word block = step + team.rank();
        word missed = end;
        for (word line = 0; line < num_groups && missed == end && block < end; ++line) {
            const word* key = keys + ((block + 1) * stride - 1) * KEY_WORDS;
            const int found = find_block<KEY_WORDS>(table, load_key<KEY_WORDS>(key, groups[line]));
            if (ids != nullptr) ids[line * line_words + block] = found;
            if (found < 0) missed = block;
        }
        end = team.least(missed);
    }
    return end;
}

// Exchange an exact word for another, from the primary bucket on. Returns the number of buckets
// passed before, or -1 when the word is nowhere. An entry is counted in all buckets that it has passed until it is taken
// out, whatever else is changed meanwhile, so a search for one stops where nothing with its counter has passed.
KVGPU_DEVICE word swap_word(const TableView& table, uword h, word expected, word desired) {
    const uword counter = KVGPU_OVERFLOW_FULL * counter_unit(h);
    word bucket = bucket_of(h, table.num_buckets);
    for (word passed = 0; passed < table.num_buckets; ++passed) {
        word* line = table.words + bucket * KVGPU_BUCKET_WORDS;
        for (int slot = 0; slot < KVGPU_SLOTS_PER_BUCKET; ++slot) {
            if (load_shared_word(line + slot) == expected &&
                compare_and_swap(line + slot, expected, desired) == expected) {
                return passed;
            }
        }
        if (expected != KVGPU_EMPTY_WORD &&
            (static_cast<uword>(load_shared_word(line + KVGPU_OVERFLOW_WORD)) & counter) == 0) {
            return -1;
        }
        bucket = next_bucket(bucket, table.num_buckets);
    }
    return -1;
}

// Add to one counter of a header; a full one stays full. The header is taken to be 0 at first, and then what the
// exchange before has seen.
KVGPU_DEVICE void count_overflow(word* header, uword unit, word delta) {
    const uword full = KVGPU_OVERFLOW_FULL * unit;
    uword expected = 0;
    while (true) {
        const uword changed = expected + static_cast<uword>(delta) * unit;
        const uword seen = static_cast<uword>(
            compare_and_swap(header, static_cast<word>(expected), static_cast<word>(changed)));
        if (seen == expected) return;
        if ((seen & full) == full) return;
        expected = seen;
    }
}

// Is the change of the first block under a key part of the phase (1: leave, 2: enter, 3: both)?
KVGPU_DEVICE bool in_phase(int phases, word before, word after) {
    const bool entering = before < 0 && after >= 0;
    const bool leaving = before >= 0 && before != after;
    return ((phases & 1) && leaving) || ((phases & 2) && entering);
}

// One row of a flush: block `before` was first under the key, `after` is now; -1 for none.
template <int KEY_WORDS>
KVGPU_DEVICE void apply_change(const TableView& table, const Key& key, word before, word after,
                               int phases) {
    if (!in_phase(phases, before, after)) return;
    if (after >= 0) {
        word* record = table.records + after * (2 * KEY_WORDS);
        for (int i = 0; i < KEY_WORDS; ++i) record[i] = key.k[i];
        record[KEY_WORDS] = key.group;
    }
    const uword h = slot_hash(key, table.seed);
    const word expected = before >= 0 ? word_of(h, before) : KVGPU_EMPTY_WORD;
    const word desired = after >= 0 ? word_of(h, after) : KVGPU_EMPTY_WORD;
    const word passed = swap_word(table, h, expected, desired);
    if (passed < 0) {
        set_bits(table.meta + KVGPU_META_STATUS,
                 before < 0 ? KVGPU_STATUS_TABLE_FULL : KVGPU_STATUS_WORD_NOT_FOUND);
        return;
    }
    const word delta = (after >= 0) - (before >= 0);
    if (delta == 0) return;
    // Counters may follow: who reads them in the same launch looks only for what was counted before.
    word bucket = bucket_of(h, table.num_buckets);
    for (word step = 0; step < passed; ++step) {
        count_overflow(table.words + bucket * KVGPU_BUCKET_WORDS + KVGPU_OVERFLOW_WORD, counter_unit(h), delta);
        bucket = next_bucket(bucket, table.num_buckets);
    }
    add(table.meta + KVGPU_META_SIZE, delta);
}

}  // namespace kvgpu
