// Accesses of one launch to memory, and which of them race: two of different threads to one word, unordered, of which
// one writes and one is plain (neither atomic nor volatile). Threads of a block are ordered by its barriers, those of a
// warp also by what the warp does together; threads of different blocks never, because a launch has no other order.
#pragma once

#include <vector>

#include "instructions.h"

namespace ptx {

enum Kind : u8 { PLAIN_READ, PLAIN_WRITE, STRONG_READ, STRONG_WRITE, KINDS };

constexpr u32 SEVERAL = ~0u;

// Who has accessed a word in one way: the last thread, or SEVERAL that are not ordered.
struct Accessor {
    u32 thread, warp, block, warp_epoch, block_epoch, instruction;
};

struct Conflict {
    u32 earlier, later;  // instructions
};

class Races {
public:
    void begin_launch() {
        ++launch_;
        conflicts_ = 0;
        if (cells_.empty()) cells_.resize(1 << 12);
        used_ = 0;
    }

    // `idle`: a write of what is there already. Two writes of one value may come in any order.
    void note(u64 address, int bytes, Kind kind, bool idle, const Accessor& now) {
        for (u64 word = address / 4; word <= (address + bytes - 1) / 4; ++word) note_word(word, kind, idle, now);
    }

    u64 count() const { return conflicts_; }
    Conflict first() const { return first_; }

private:
    struct Cell {
        u64 word;
        u32 launch;
        u8 present;
        Accessor by[KINDS];
    };

    static bool conflicting(Kind a, Kind b) {
        const bool writes = a == PLAIN_WRITE || a == STRONG_WRITE || b == PLAIN_WRITE || b == STRONG_WRITE;
        const bool plain = a <= PLAIN_WRITE || b <= PLAIN_WRITE;
        return writes && plain;
    }

    static bool ordered(const Accessor& before, const Accessor& now) {
        return before.thread == now.thread || (before.warp == now.warp && before.warp_epoch < now.warp_epoch) ||
               (before.block == now.block && before.block_epoch < now.block_epoch);
    }

    void note_word(u64 word, Kind kind, bool idle, const Accessor& now) {
        Cell& cell = cell_of(word);
        for (int other = 0; other < KINDS; ++other) {
            if (!(cell.present >> other & 1) || !conflicting(kind, static_cast<Kind>(other))) continue;
            if (ordered(cell.by[other], now) || (idle && other == PLAIN_WRITE)) continue;
            if (conflicts_++ == 0) first_ = {cell.by[other].instruction, now.instruction};
        }
        Accessor& mine = cell.by[kind];
        Accessor last = now;
        // What is ordered before this access need not be remembered: what races with it races with this one, too.
        if (cell.present >> kind & 1 && !ordered(mine, now)) {
            if (mine.thread != now.thread) last.thread = SEVERAL;
            if (mine.warp != now.warp) last.warp = SEVERAL;
            if (mine.block != now.block) last.block = SEVERAL;
        }
        mine = last;
        cell.present |= 1 << kind;
    }

    Cell& cell_of(u64 word) {
        if (2 * used_ >= cells_.size()) grow();
        for (u64 i = word * 0x9E3779B97F4A7C15ull >> 20;; ++i) {
            Cell& cell = cells_[i & (cells_.size() - 1)];
            if (cell.launch == launch_ && cell.word == word) return cell;
            if (cell.launch != launch_) {
                cell.launch = launch_, cell.word = word, cell.present = 0;
                ++used_;
                return cell;
            }
        }
    }

    void grow() {
        std::vector<Cell> old(4 * cells_.size());
        old.swap(cells_);
        used_ = 0;
        for (const Cell& cell : old)
            if (cell.launch == launch_) cell_of(cell.word) = cell;
    }

    std::vector<Cell> cells_;
    u64 used_ = 0, conflicts_ = 0;
    u32 launch_ = 0;
    Conflict first_{};
};

}  // namespace ptx
