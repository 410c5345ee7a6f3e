// The device functions of kernels/cuda/table.cuh on real threads: many small flushes with heavy
// contention on few buckets, each compared with a map. Run under ThreadSanitizer by test_races.py.
//
//     stress SEED ROUNDS THREADS BUCKETS
//
// Prints "ok" and exits 0, or says what differs and exits 1.
#include <cstdio>
#include <cstdlib>
#include <algorithm>
#include <atomic>
#include <map>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "table.cuh"

using kvgpu::Key;
using kvgpu::word;

namespace {

constexpr int KEY_WORDS = 2;
constexpr word COUNTERS = KVGPU_OVERFLOW_COUNTERS;

struct Change {
    Key key;
    word before;
    word after;
};

struct Pool {
    std::vector<word> words, records, meta;
    kvgpu::TableView table;

    Pool(word num_buckets, word num_blocks, word seed)
        : words(num_buckets * KVGPU_BUCKET_WORDS),
          records(num_blocks * 2 * KEY_WORDS, -1),
          meta(8),
          table{words.data(), records.data(), meta.data(), num_buckets, num_blocks, seed} {
        // As after a crowd that has left: every counter of one bucket is full, and has to stay so.
        for (word i = 0; i < COUNTERS; ++i) {
            words[KVGPU_OVERFLOW_WORD] |= KVGPU_OVERFLOW_FULL << KVGPU_OVERFLOW_BITS * i;
        }
    }
};

// A batch by threads that take every so-many-th row, as blocks of a launch would in any order.
void launch(const Pool& pool, const std::vector<Change>& batch, int phases, int num_threads) {
    std::vector<std::thread> threads;
    std::atomic<int> started{0};
    for (int t = 0; t < num_threads; ++t) {
        threads.emplace_back([&, t] {
            // All begin together, or the first would be done before the last is there.
            for (++started; started < num_threads;) std::this_thread::yield();
            for (size_t i = t; i < batch.size(); i += num_threads) {
                kvgpu::apply_change<KEY_WORDS>(pool.table, batch[i].key, batch[i].before,
                                               batch[i].after, phases);
            }
        });
    }
    for (auto& thread : threads) thread.join();
}

int fail(const char* what, long round, word got, word expected) {
    std::printf("round %ld: %s: got %lld, expected %lld\n", round, what, got, expected);
    return 1;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 5) return 2;
    std::mt19937_64 random(std::strtoull(argv[1], nullptr, 10));
    const long rounds = std::atol(argv[2]);
    const int num_threads = std::atoi(argv[3]);
    const word num_buckets = std::atoll(argv[4]);
    const word slots = num_buckets * KVGPU_SLOTS_PER_BUCKET;
    // Full enough that entries overflow far; every second round there is no room for both phases.
    const word num_blocks = slots * 4 / 5;
    Pool pool(num_buckets, num_blocks, static_cast<word>(random() | 1));
    std::map<word, word> first;  // key number -> block
    std::vector<bool> full(num_buckets * COUNTERS);
    std::vector<word> idle;
    for (word block = 0; block < num_blocks; ++block) idle.push_back(block);
    auto key_of = [](word number) { return Key{{number / 3, number, 0, 0}, number % 3}; };

    for (long round = 0; round < rounds; ++round) {
        std::vector<Change> batch;
        std::vector<std::pair<word, word>> now(first.begin(), first.end());
        std::shuffle(now.begin(), now.end(), random);
        std::shuffle(idle.begin(), idle.end(), random);
        std::vector<word> freed;
        for (auto [number, block] : now) {
            const auto dice = random() % 4;
            if (dice == 0) {
                batch.push_back({key_of(number), block, -1});
                first.erase(number);
                freed.push_back(block);
            } else if (dice == 1 && !idle.empty()) {
                batch.push_back({key_of(number), block, idle.back()});
                first[number] = idle.back();
                idle.pop_back();
                freed.push_back(block);
            }
        }
        // Blocks that left in this flush come back under other keys in the same flush.
        idle.insert(idle.end(), freed.begin(), freed.end());
        while (!idle.empty() && random() % 8) {
            const word number = static_cast<word>(random() % 1000000);
            const bool touched = std::any_of(batch.begin(), batch.end(), [&](const Change& change) {
                return change.key.k[1] == number;
            });
            if (touched || first.count(number)) continue;
            batch.push_back({key_of(number), -1, idle.back()});
            first[number] = idle.back();
            idle.pop_back();
        }
        std::shuffle(batch.begin(), batch.end(), random);
        if (num_blocks + static_cast<word>(batch.size()) <= slots) {
            launch(pool, batch, 3, num_threads);
        } else {
            launch(pool, batch, 1, num_threads);
            launch(pool, batch, 2, num_threads);
        }

        if (pool.meta[KVGPU_META_STATUS]) return fail("status", round, pool.meta[KVGPU_META_STATUS], 0);
        const word size = static_cast<word>(first.size());
        if (pool.meta[KVGPU_META_SIZE] != size) {
            return fail("size", round, pool.meta[KVGPU_META_SIZE], size);
        }
        for (auto [number, block] : first) {
            const word found = kvgpu::find_block<KEY_WORDS>(pool.table, key_of(number));
            if (found != block) return fail("block", round, found, block);
        }
        for (const Change& change : batch) {
            const word found = kvgpu::find_block<KEY_WORDS>(pool.table, change.key);
            if (change.after < 0 && found != -1) return fail("erased key", round, found, -1);
        }
        // A counter is the number of entries that passed its bucket and belong to it, or full for ever.
        std::vector<word> passed(num_buckets * COUNTERS);
        word live = 0;
        for (word at = 0; at < slots; ++at) {
            const word bucket = at / KVGPU_SLOTS_PER_BUCKET;
            const word entry = pool.words[bucket * KVGPU_BUCKET_WORDS + at % KVGPU_SLOTS_PER_BUCKET];
            if (entry == KVGPU_EMPTY_WORD) continue;
            ++live;
            const word* record = &pool.records[((entry & 0xFFFFFFFF) - 1) * 2 * KEY_WORDS];
            const Key key = kvgpu::load_key<KEY_WORDS>(record, record[KEY_WORDS]);
            const kvgpu::uword hash = kvgpu::slot_hash(key, pool.table.seed);
            const word counter = hash >> KVGPU_OVERFLOW_SHIFT & (COUNTERS - 1);
            word home = kvgpu::bucket_of(hash, num_buckets);
            for (; home != bucket; home = kvgpu::next_bucket(home, num_buckets)) {
                ++passed[home * COUNTERS + counter];
            }
        }
        if (live != size) return fail("words", round, live, size);
        for (word i = 0; i < num_buckets * COUNTERS; ++i) {
            const word header = pool.words[i / COUNTERS * KVGPU_BUCKET_WORDS + KVGPU_OVERFLOW_WORD];
            const word count = header >> KVGPU_OVERFLOW_BITS * (i % COUNTERS) & ((1 << KVGPU_OVERFLOW_BITS) - 1);
            const bool exact = count == passed[i] && !full[i];
            full[i] = count == KVGPU_OVERFLOW_FULL;
            if (!exact && !full[i]) return fail("overflow", round, count, passed[i]);
        }
    }
    std::puts("ok");
    return 0;
}
