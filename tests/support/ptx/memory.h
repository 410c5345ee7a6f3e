// Accesses to memory, and what the lanes of a warp compute together, for translated code.
#pragma once

#include "machine.h"

namespace ptx {

template <class T> T at(const void* address) {
    T value;
    std::memcpy(&value, address, sizeof value);
    return value;
}

template <class T> void put(void* address, T value) { std::memcpy(address, &value, sizeof value); }

// Where an access goes, and the address under which races for it are looked for; 0: nobody else can reach it.
struct Place {
    char* at;
    u64 watched;
};

inline Place private_place(u64 address) { return {reinterpret_cast<char*>(address), 0}; }
inline Place global_place(u64 address) { return {reinterpret_cast<char*>(address), address}; }

// The shared memory of different blocks is one place behind another, so that blocks never race for it.
inline Place shared_place(Thread& thread, u64 address, int bytes) {
    if (address + bytes <= thread.block->shared.size())
        return {thread.block->shared.data() + address, 1ull << 63 | u64{thread.block->number} << 24 | address};
    machine.fail(OUTSIDE_SHARED, thread);
    static char nothing[16];
    return {nothing, 0};
}

template <class T, int N> void read(Thread& thread, Place place, Kind kind, T (&values)[N]) {
    if (place.watched) machine.note(place.watched, sizeof values, kind, false, thread);
    std::memcpy(values, place.at, sizeof values);
}

template <class T, int N> void write(Thread& thread, Place place, Kind kind, const T (&values)[N]) {
    const bool changes = std::memcmp(place.at, values, sizeof values) != 0;
    if (place.watched) machine.note(place.watched, sizeof values, kind, !changes, thread);
    std::memcpy(place.at, values, sizeof values);
}

template <class T, class New> T exchange(Thread& thread, Place place, New value) {
    if (place.watched) machine.note(place.watched, sizeof(T), STRONG_WRITE, false, thread);
    const T old = at<T>(place.at);
    put<T>(place.at, value(old));
    return old;
}

inline void sync_warp(Warp&, u32) {}

template <class T, T (*Fold)(T, T)> void redux(Warp& warp, u32 mask) {
    T total{};
    bool first = true;
    for (int lane = 0; lane < WARP; ++lane) {
        if (!(mask >> lane & 1)) continue;
        const T value = static_cast<T>(warp.lanes[lane]->operands[0]);
        total = first ? value : Fold(total, value);
        first = false;
    }
    for (int lane = 0; lane < WARP; ++lane)
        if (mask >> lane & 1) warp.lanes[lane]->result = static_cast<std::make_unsigned_t<T>>(total);
}

enum Direction { UP, DOWN, BFLY, IDX };

// PTX ISA, 9.7.9.6: operands are the value, the distance or lane, and the clamp with the mask of segments.
template <Direction D> void shfl(Warp& warp, u32 mask) {
    for (int lane = 0; lane < WARP; ++lane) {
        if (!(mask >> lane & 1)) continue;
        Thread& thread = *warp.lanes[lane];
        const int b = thread.operands[1] & 31, clamp = thread.operands[2] & 31, segment = thread.operands[2] >> 8 & 31;
        const int highest = (lane & segment) | (clamp & ~segment), lowest = lane & segment;
        int source = D == UP ? lane - b : D == DOWN ? lane + b : D == BFLY ? lane ^ b : lowest | (b & ~segment);
        thread.flag = D == UP ? source >= highest : source <= highest;
        if (!thread.flag || !warp.lanes[source]) source = lane;
        thread.result = warp.lanes[source]->operands[0];
    }
}

// Matrices of 8 rows of 16 bytes in shared memory: lane 8m + r has the address of row r of matrix m, and lane 4r + c gets
// its 4 bytes from 4c on (PTX ISA, 9.7.14.5.15).
template <int MATRICES> void ldmatrix(Warp& warp, u32 mask) {
    for (int lane = 0; lane < WARP; ++lane) {
        if (!(mask >> lane & 1)) continue;
        Thread& thread = *warp.lanes[lane];
        for (int matrix = 0; matrix < MATRICES; ++matrix) {
            const u64 row = warp.lanes[8 * matrix + lane / 4]->operands[0];
            u32 piece[1];
            read(thread, shared_place(thread, row + 4 * (lane % 4), 4), PLAIN_READ, piece);
            thread.pieces[matrix] = piece[0];
        }
    }
}

inline u32 ballot(Warp& warp, u32 mask) {
    u32 found = 0;
    for (int lane = 0; lane < WARP; ++lane)
        if (mask >> lane & 1) found |= static_cast<u32>(warp.lanes[lane]->operands[0] & 1) << lane;
    return found;
}

inline void say(Warp& warp, u32 mask, u64 result) {
    for (int lane = 0; lane < WARP; ++lane)
        if (mask >> lane & 1) warp.lanes[lane]->result = result;
}

inline void vote_ballot(Warp& warp, u32 mask) { say(warp, mask, ballot(warp, mask)); }
inline void vote_any(Warp& warp, u32 mask) { say(warp, mask, ballot(warp, mask) != 0); }
inline void vote_all(Warp& warp, u32 mask) { say(warp, mask, ballot(warp, mask) == mask); }
inline void vote_uni(Warp& warp, u32 mask) { say(warp, mask, ballot(warp, mask) == mask || ballot(warp, mask) == 0); }

}  // namespace ptx
