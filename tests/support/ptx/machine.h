// Runs one launch of a kernel on the CPU. The kernel is `void step(Lane&)`, which a translator has made of PTX: it runs
// one thread up to where another may go on (before an access to memory, where threads wait for each other, at the end).
//
// Every thread has its own place in the program, as on GPUs since 2017. Which goes on next is drawn from a seed, so
// threads interleave access by access, and a run can be repeated. An access takes effect at once and everywhere: what
// weaker memory would add is not searched.
#pragma once

#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "races.h"

namespace ptx {

constexpr int WARP = 32, BARRIERS = 16, MAX_CALLS = 8;

struct Dim {
    u32 x, y, z;
};

struct Launch {
    const char* parameters;
    Dim grid, block;
    u32 shared_bytes;
    u64 seed;
    u32 blocks_at_once;
    u32 pause_every;  // a thread pauses before one access in so many, drawn at random; 0: hardly ever
    u32 watches;      // whether races are looked for
    u64 max_steps;    // of a thread, after which it is thought to run for ever
};

struct Report {
    u64 conflicts;
    u32 earlier, later;   // instructions of the first conflict
    u32 failure, failed;  // a Failure, and its instruction
};

enum Failure : u32 { NONE, DEADLOCK, ENDLESS, TOO_MANY_CALLS, OUTSIDE_SHARED };
enum State : u8 { READY, WAITING, DONE };

struct Warp;
struct Block;
struct Thread;
using Together = void (*)(Warp&, u32 mask);  // what a warp computes of `operands`, into `result`

struct Thread {
    u32 place = 0, lane, number, instruction = 0;
    Dim at;
    State state = READY;
    Warp* warp;
    Block* block;
    u64 steps = 0;
    // What the thread waits for: `together` with the lanes of `mask`, or the block's barrier if that is null.
    Together together;
    u32 mask, barrier;
    u64 operands[3], result;
    u32 pieces[4];  // further results
    bool flag;
    u32 calls[MAX_CALLS], depth = 0;
};

struct Warp {
    Thread* lanes[WARP] = {};
    u32 number, epoch = 0, done = 0;
};

struct Block {
    Dim at;
    u32 number, size, live, epoch = 0, arrived[BARRIERS] = {};
    std::vector<char> shared;
    std::vector<Warp> warps;
};

class Machine {
public:
    Launch launch;
    Report report;

    template <class Lane> int run(const Launch& given, void (*step)(Lane&)) {
        launch = given;
        report = {};
        random_ = launch.seed * 0x9E3779B97F4A7C15ull | 1;
        races_.begin_launch();
        ready_.clear();
        std::vector<std::unique_ptr<Running<Lane>>> running;
        const u64 total = u64{launch.grid.x} * launch.grid.y * launch.grid.z;
        bool paused = false;
        for (u64 begun = 0, ended = 0; ended < total && !report.failure;) {
            while (begun < total && running.size() < launch.blocks_at_once) running.push_back(begin<Lane>(begun++));
            if (ready_.empty()) {
                const auto& waiting = *std::find_if(running.front()->lanes.begin(), running.front()->lanes.end(),
                                                    [](const Lane& lane) { return lane.state == WAITING; });
                fail(DEADLOCK, waiting);
                break;
            }
            // Without pauses one thread after the other, but for those that wait for what another writes.
            const bool draws = launch.pause_every || paused;
            const u64 chosen = draws ? next_random() % ready_.size() : ready_.size() - 1;
            Lane& lane = static_cast<Lane&>(*ready_[chosen]);
            step(lane);
            paused = lane.state == READY;
            if (paused) continue;
            ready_[chosen] = ready_.back();
            ready_.pop_back();
            settle(lane);
            if (lane.state != DONE || lane.block->live) continue;
            ++ended;
            std::erase_if(running, [](const auto& one) { return one->block.live == 0; });
        }
        report.conflicts = races_.count();
        report.earlier = races_.first().earlier, report.later = races_.first().later;
        return report.failure == NONE && report.conflicts == 0 ? 0 : 1;
    }

    bool pauses() {
        return next_random() % (launch.pause_every ? launch.pause_every : 1 << 10) == 0;
    }

    void fail(Failure failure, const Thread& thread) {
        if (!report.failure) report.failure = failure, report.failed = thread.instruction;
    }

    void note(u64 address, int bytes, Kind kind, bool idle, const Thread& thread) {
        if (!launch.watches) return;
        races_.note(address, bytes, kind, idle,
                    {thread.number, thread.warp->number, thread.block->number, thread.warp->epoch, thread.block->epoch,
                     thread.instruction});
    }

private:
    template <class Lane> struct Running {
        Block block;
        std::vector<Lane> lanes;
    };

    template <class Lane> std::unique_ptr<Running<Lane>> begin(u64 number) {
        auto made = std::make_unique<Running<Lane>>();
        Block& block = made->block;
        const Dim grid = launch.grid, size = launch.block;
        block.at = {static_cast<u32>(number % grid.x), static_cast<u32>(number / grid.x % grid.y),
                    static_cast<u32>(number / grid.x / grid.y)};
        block.number = static_cast<u32>(number);
        block.size = block.live = size.x * size.y * size.z;
        block.shared.resize(launch.shared_bytes);
        block.warps.resize((block.size + WARP - 1) / WARP);
        made->lanes.resize(block.size);
        for (u32 i = 0; i < block.size; ++i) {
            Thread& thread = made->lanes[i];
            thread.lane = i % WARP;
            thread.number = block.number * block.size + i;
            thread.at = {i % size.x, i / size.x % size.y, i / size.x / size.y};
            thread.block = &block;
            thread.warp = &block.warps[i / WARP];
            thread.warp->number = thread.number / WARP;
            thread.warp->lanes[thread.lane] = &thread;
            ready_.push_back(&thread);
        }
        return made;
    }

    // Let go on whoever waited for this thread.
    void settle(Thread& thread) {
        Warp& warp = *thread.warp;
        Block& block = *thread.block;
        if (thread.state == DONE) {
            --block.live;
            warp.done |= 1u << thread.lane;
            for (u32 barrier = 0; barrier < BARRIERS; ++barrier) open_barrier(block, barrier);
            return;
        }
        if (thread.together == nullptr) {
            ++block.arrived[thread.barrier];
            return open_barrier(block, thread.barrier);
        }
        for (int lane = 0; lane < WARP; ++lane) {
            const Thread* other = warp.lanes[lane];
            if (!(thread.mask >> lane & 1) || !other) continue;
            const bool arrived = other->state == WAITING && other->together == thread.together && other->mask == thread.mask;
            if (!arrived && other->state != DONE) return;
        }
        ++warp.epoch;
        const u32 mask = thread.mask & ~warp.done;
        thread.together(warp, mask);
        for (int lane = 0; lane < WARP; ++lane)
            if (mask >> lane & 1 && warp.lanes[lane]) release(*warp.lanes[lane]);
    }

    void open_barrier(Block& block, u32 barrier) {
        if (block.arrived[barrier] == 0 || block.arrived[barrier] < block.live) return;
        block.arrived[barrier] = 0;
        ++block.epoch;
        for (Warp& warp : block.warps)
            for (Thread* thread : warp.lanes)
                if (thread && thread->state == WAITING && !thread->together && thread->barrier == barrier) release(*thread);
    }

    void release(Thread& thread) {
        thread.state = READY;
        ready_.push_back(&thread);
    }

    u64 next_random() {
        random_ ^= random_ << 13, random_ ^= random_ >> 7, random_ ^= random_ << 17;
        return random_ >> 11;
    }

    std::vector<Thread*> ready_;
    Races races_;
    u64 random_ = 1;
};

inline Machine machine;

// What translated code says about itself.

inline void wait_together(Thread& thread, Together together, u32 mask, u64 a = 0, u64 b = 0, u64 c = 0) {
    thread.state = WAITING;
    thread.together = together;
    thread.mask = mask;
    thread.operands[0] = a, thread.operands[1] = b, thread.operands[2] = c;
}

inline void wait_barrier(Thread& thread, u32 barrier) {
    thread.state = WAITING;
    thread.together = nullptr;
    thread.barrier = barrier % BARRIERS;
}

// Stops a thread that goes round for ever; called at every branch.
inline bool endless(Thread& thread) {
    if (++thread.steps <= machine.launch.max_steps) return false;
    machine.fail(ENDLESS, thread);
    thread.state = DONE;
    return true;
}

}  // namespace ptx
