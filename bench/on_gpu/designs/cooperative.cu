// Looking keys up in lanes that read together, beside kvgpu::find_block, in which each lane reads alone.
//
// A warp takes 32 keys, one a lane. Four lanes read a bucket, 16 bytes each, and KEY_WORDS lanes a record: a load touches 8
// lines, or 32 / KEY_WORDS records, in place of 32, and the first-level cache looks up as many tags. The grid is
// persistent; a warp loads the keys of its next tile before it looks up those of this one.
#include "table.cuh"

using kvgpu::Key;
using kvgpu::Pair;
using kvgpu::TableView;
using kvgpu::uword;
using kvgpu::word;

constexpr unsigned ALL = 0xFFFFFFFFu;
constexpr int WARP = 32, BUCKET_LANES = KVGPU_BUCKET_WORDS / 2, BUCKETS = WARP / BUCKET_LANES;
static_assert(KVGPU_OVERFLOW_WORD == KVGPU_BUCKET_WORDS - 1, "the last lane of a bucket reads its header");
static_assert(KVGPU_OVERFLOW_SHIFT + 3 <= 32 && KVGPU_OVERFLOW_COUNTERS == 8, "the tag chooses the counter");

KVGPU_DEVICE int lane() { return threadIdx.x % WARP; }

// The bits that WIDTH lanes which follow each other have voted, those of the lanes that read for this one.
template <int WIDTH>
KVGPU_DEVICE unsigned votes_of(unsigned votes) {
    return votes >> (lane() % (WARP / WIDTH) * WIDTH) & ((1u << WIDTH) - 1);
}

// What a lane has seen in a round. Round s reads the buckets of lanes 8 * s to 8 * s + 7.
struct Seen {
    unsigned even[BUCKET_LANES], odd[BUCKET_LANES];  // by round: lower halves of the two words that this lane has read
    unsigned even_tags, odd_tags;  // which lanes have read a word with the tag of this lane's key
    bool passed;                   // has the bucket overflowed with a key whose counter is the same?
};

KVGPU_DEVICE Seen read_buckets(const TableView& table, unsigned bucket, unsigned tag) {
    const int part = lane() % BUCKET_LANES;
    const bool has_header = part == BUCKET_LANES - 1;
    Pair read[BUCKET_LANES];
    unsigned wanted[BUCKET_LANES];
#pragma unroll
    for (int s = 0; s < BUCKET_LANES; ++s) {
        const int owner = s * BUCKETS + lane() / BUCKET_LANES;
        const word place = __shfl_sync(ALL, bucket, owner);
        wanted[s] = __shfl_sync(ALL, tag, owner);
        read[s] = kvgpu::load_pair(table.words + place * KVGPU_BUCKET_WORDS + part * 2);
    }
    Seen seen{};
#pragma unroll
    for (int s = 0; s < BUCKET_LANES; ++s) {
        const uword x = static_cast<uword>(read[s].x), y = static_cast<uword>(read[s].y);
        const uword counter = KVGPU_OVERFLOW_FULL * kvgpu::counter_unit(wanted[s]);
        const unsigned even = __ballot_sync(ALL, x >> KVGPU_TAG_SHIFT == wanted[s]);
        const unsigned odd = __ballot_sync(ALL, !has_header && y >> KVGPU_TAG_SHIFT == wanted[s]);
        const unsigned passed = __ballot_sync(ALL, has_header && (y & counter) != 0);
        if (lane() / BUCKETS == s) {
            seen.even_tags = votes_of<BUCKET_LANES>(even);
            seen.odd_tags = votes_of<BUCKET_LANES>(odd);
            seen.passed = votes_of<BUCKET_LANES>(passed) != 0;
        }
        seen.even[s] = static_cast<unsigned>(x);
        seen.odd[s] = static_cast<unsigned>(y);
    }
    return seen;
}

// Block of the lowest slot that is left in the tags of each lane; 0 where none is.
KVGPU_DEVICE unsigned candidate(const Seen& seen) {
    const bool is_even = seen.even_tags != 0;
    const unsigned tags = is_even ? seen.even_tags : seen.odd_tags;
    const int reader = lane() % BUCKETS * BUCKET_LANES + (tags != 0 ? kvgpu::lowest_bit(tags) : 0);
    unsigned chosen = 1;
#pragma unroll
    for (int s = 0; s < BUCKET_LANES; ++s) {
        const unsigned even = __shfl_sync(ALL, seen.even[s], reader), odd = __shfl_sync(ALL, seen.odd[s], reader);
        if (lane() / BUCKETS == s && tags != 0) chosen = is_even ? even : odd;
    }
    return chosen - 1;
}

// Does the record of each lane's block hold its key and group?
template <int KEY_WORDS>
KVGPU_DEVICE bool records_equal(const TableView& table, unsigned block, const Key& key) {
    constexpr int RECORDS = WARP / KEY_WORDS;
    const int part = lane() % KEY_WORDS;
    bool equal = false;
#pragma unroll
    for (int s = 0; s < KEY_WORDS; ++s) {
        const int owner = s * RECORDS + lane() / KEY_WORDS;
        const word place = __shfl_sync(ALL, block, owner);
        const Pair read = kvgpu::load_pair(table.records + place * (2 * KEY_WORDS) + part * 2);
        const word group = __shfl_sync(ALL, static_cast<int>(key.group), owner);
        bool same = part != KEY_WORDS / 2 || read.x == group;  // what follows the group is padding
#pragma unroll
        for (int pair = 0; pair < KEY_WORDS / 2; ++pair) {
            const word x = __shfl_sync(ALL, key.k[2 * pair], owner), y = __shfl_sync(ALL, key.k[2 * pair + 1], owner);
            if (part == pair) same = read.x == x && read.y == y;
        }
        const unsigned votes = votes_of<KEY_WORDS>(__ballot_sync(ALL, same));
        if (lane() / RECORDS == s) equal = votes == (1u << KEY_WORDS) - 1;
    }
    return equal;
}

// Id of the first block under each lane's key, or -1.
template <int KEY_WORDS>
KVGPU_DEVICE int find_blocks(const TableView& table, const Key& key) {
    const uword h = kvgpu::slot_hash(key, table.seed);
    word bucket = kvgpu::bucket_of(h, table.num_buckets);
    int found = -1;
    bool looking = true;
    for (word step = 0; step < table.num_buckets && __any_sync(ALL, looking); ++step) {
        Seen seen = read_buckets(table, static_cast<unsigned>(bucket), static_cast<unsigned>(h));
        if (!looking) seen.even_tags = seen.odd_tags = 0;
        while (__any_sync(ALL, (seen.even_tags | seen.odd_tags) != 0)) {  // once, unless tags are equal
            const bool has_candidate = (seen.even_tags | seen.odd_tags) != 0;
            const unsigned block = candidate(seen);
            const bool equal = records_equal<KEY_WORDS>(table, block, key) && has_candidate;
            if (equal) found = static_cast<int>(block);
            if (equal) seen.even_tags = seen.odd_tags = 0;
            if (seen.even_tags != 0) seen.even_tags &= seen.even_tags - 1;
            else seen.odd_tags &= seen.odd_tags - 1;
        }
        looking = looking && found < 0 && seen.passed;
        bucket = kvgpu::next_bucket(bucket, table.num_buckets);
    }
    return found;
}

// Key `i`, or the last one if there are fewer.
template <int KEY_WORDS>
KVGPU_DEVICE Key key_at(const word* keys, const int* groups, int one_group, word i, word count) {
    i = i < count ? i : count - 1;
    const Pair low = kvgpu::load_pair(keys + i * KEY_WORDS);
    Key key{{low.x, low.y, 0, 0}, groups[one_group ? 0 : i]};
    if constexpr (KEY_WORDS == 4) {
        const Pair high = kvgpu::load_pair(keys + i * KEY_WORDS + 2);
        key.k[2] = high.x;
        key.k[3] = high.y;
    }
    return key;
}

template <int KEY_WORDS>
KVGPU_DEVICE void find_tiles(const TableView& table, const word* keys, const int* groups, int one_group, int* ids,
                             word count) {
    // The loop's condition is the same for a whole block, so that the compiler knows that no lane has left.
    const word stride = static_cast<word>(gridDim.x) * blockDim.x;
    word first = static_cast<word>(blockIdx.x) * blockDim.x;
    Key next = key_at<KEY_WORDS>(keys, groups, one_group, first + threadIdx.x, count);
    for (; first < count; first += stride) {
        const Key key = next;
        next = key_at<KEY_WORDS>(keys, groups, one_group, first + stride + threadIdx.x, count);
        const int found = find_blocks<KEY_WORDS>(table, key);
        if (first + threadIdx.x < count) ids[first + threadIdx.x] = found;
    }
}

#define FIND(KEY_WORDS)                                                                                             \
    extern "C" __global__ void __launch_bounds__(128, 8)                                                            \
        find_together_##KEY_WORDS(TableView table, const word* keys, const int* groups, int one_group, int* ids,    \
                                  word count) {                                                                     \
        find_tiles<KEY_WORDS>(table, keys, groups, one_group, ids, count);                                          \
    }
FIND(2)
FIND(4)
