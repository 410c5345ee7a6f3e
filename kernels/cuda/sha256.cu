// SHA-256 of serialised blocks, one chain per thread: the twin of kvgpu.hashing.serialised.messages and .digests.
//
// The threads of a warp hash one block each, and do so together: each writes its message into a ring of words in shared
// memory, and when some ring is nearly full, or all messages are complete, those who have a piece of 64 bytes compress it
// at once. A thread that compressed whenever its own piece was full would keep the other 31 waiting, because tokens take
// 2, 3 or 5 bytes: nine times a block where two or three are needed.

typedef long long word;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned char u8;

namespace kvgpu {

enum { PICKLE = 0 };
enum { PROTOCOL = 0x80, FRAME = 0x95, SHORT_BINBYTES = 0x43, MEMOIZE = 0x94, MARK = 0x28 };
enum { TUPLE = 0x74, TUPLE1 = 0x85, EMPTY_TUPLE = 0x29 };
enum { BININT = 0x4A, BININT1 = 0x4B, BININT2 = 0x4D, LONG1 = 0x8A };
enum { UNSIGNED = 0x00, NEGATIVE = 0x20, BYTES = 0x40, ARRAY = 0x80 };
enum { DIGEST_BYTES = 32 };

// FIPS 180-4, sections 4.2.2 and 5.3.3.
static __device__ const u32 ROUND_CONSTANTS[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

__device__ inline u32 rotated(u32 x, int count) { return (x >> count) | (x << (32 - count)); }

#ifdef __CUDACC__
enum { WARP = 32 };
__device__ inline bool any(bool mine) { return __any_sync(0xFFFFFFFFu, mine); }
#else
enum { WARP = 1 };  // threads run one after the other
__device__ inline bool any(bool mine) { return mine; }
#endif

enum { RING = 64, PIECE = 16, STEP_WORDS = 24 };  // words; a step of a message writes at most STEP_WORDS

struct Sha256 {
    u32 state[8];

    __device__ void begin() {
        const u32 start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                              0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
#pragma unroll
        for (int i = 0; i < 8; ++i) state[i] = start[i];
    }

    // All threads of the warp run this; the state of those that are not `active` stays.
    __device__ __forceinline__ void compress(const u32* ring, u32 first, bool active) {
        u32 w[16], s[8];
#pragma unroll
        for (int i = 0; i < 16; ++i) w[i] = ring[(first + i) % RING * WARP];
#pragma unroll
        for (int i = 0; i < 8; ++i) s[i] = state[i];
#pragma unroll
        for (int i = 0; i < 64; ++i) {
            if (i >= 16) {
                const u32 a = w[(i + 1) % 16], b = w[(i + 14) % 16];
                w[i % 16] += (rotated(a, 7) ^ rotated(a, 18) ^ (a >> 3)) + w[(i + 9) % 16] +
                             (rotated(b, 17) ^ rotated(b, 19) ^ (b >> 10));
            }
            const u32 t = s[7] + (rotated(s[4], 6) ^ rotated(s[4], 11) ^ rotated(s[4], 25)) +
                          ((s[4] & s[5]) ^ (~s[4] & s[6])) + ROUND_CONSTANTS[i] + w[i % 16];
            const u32 u = (rotated(s[0], 2) ^ rotated(s[0], 13) ^ rotated(s[0], 22)) +
                          ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
            s[7] = s[6], s[6] = s[5], s[5] = s[4], s[4] = s[3] + t;
            s[3] = s[2], s[2] = s[1], s[1] = s[0], s[0] = t + u;
        }
#pragma unroll
        for (int i = 0; i < 8; ++i) state[i] += active ? s[i] : 0;
    }
};

// A message as words in a ring, whose neighbours in memory belong to the neighbours in the warp.
struct Message {
    u32* ring;
    u64 bits = 0;     // the last `pending` bytes, at most 3 between calls
    int pending = 0;
    u32 length = 0;   // bytes
    u32 written = 0, hashed = 0;  // words

    // Append the lowest `count` bytes, at most 5, the highest first.
    __device__ void put(u64 bytes, int count) {
        bits = bits << (8 * count) | (bytes & ((u64{1} << (8 * count)) - 1));
        pending += count;
        length += count;
        while (pending >= 4) {
            pending -= 4;
            ring[written % RING * WARP] = static_cast<u32>(bits >> (8 * pending));
            ++written;
        }
    }

    // Append `count` bytes, the lowest first.
    __device__ void put_little(u64 value, int count) {
        for (int byte = 0; byte < count; ++byte) put(value >> (8 * byte), 1);
    }

    __device__ void finish() {
        const u32 bits_in_all = 8 * length;  // messages are far below 2**29 bytes
        put(0x80, 1);
        while (length % 64 != 56) put(0, 1);
        put(0, 4);
        put(bits_in_all, 4);
    }
};

__device__ inline int long_bytes(word value) {
    int count = 5;
    while (count < 8 && (value >> (8 * count - 1)) != (value >> 63)) ++count;
    return count;
}

__device__ inline int pickled_bytes(word value) {
    if (value >= 0 && value <= 0xFFFF) return value <= 0xFF ? 2 : 3;
    return value == static_cast<int>(value) ? 5 : 2 + long_bytes(value);
}

__device__ inline u32 swapped(u32 x) { return x >> 24 | (x >> 8 & 0xFF00) | (x << 8 & 0xFF0000) | x << 24; }

__device__ inline void put_pickled(Message& message, word value) {
    const int count = pickled_bytes(value) - 1;
    if (count == 1) return message.put(BININT1 << 8 | value, 2);
    if (count == 2) return message.put(u64{BININT2} << 16 | (value & 0xFF) << 8 | value >> 8, 3);
    if (count == 4) return message.put(u64{BININT} << 32 | swapped(static_cast<u32>(value)), 5);
    message.put(LONG1 << 8 | (count - 1), 2);
    message.put_little(value, count - 1);
}

// A CBOR head in its shortest form; value >= 0.
__device__ inline void put_head(Message& message, u32 major, word value) {
    if (value < 24) return message.put(major + value, 1);
    int code = 24;
    while (code < 27 && value >> (8 << (code - 24)) != 0) ++code;
    const int count = 1 << (code - 24);
    message.put(major + code, 1);
    if (count == 8) message.put(value >> 32, 4);
    message.put(value, count < 4 ? count : 4);
}

// A chain, and the block of it that is being hashed.
template <typename Token>
struct Chain {
    int kind;
    const Token* tokens;  // of this block
    word size;
    const u8* parent;
    int parent_bytes;
    const u8* ending;
    word ending_bytes;

    __device__ word steps() const { return 1 + size + (ending_bytes + 15) / 16 + 1; }

    __device__ void put_step(Message& message, word step) const {
        if (step == 0) return put_front(message);
        if (step <= size) return put_token(message, tokens[step - 1], step);
        const word from = 16 * (step - 1 - size);
        if (from >= ending_bytes) return message.finish();
        for (word i = from; i < ending_bytes && i < from + 16; ++i) message.put(ending[i], 1);
    }

    __device__ void put_front(Message& message) const {
        if (kind == PICKLE) {
            word length = 2 + parent_bytes + 1 + (size > 3) + (size ? 2 : 1) + ending_bytes;
            for (word i = 0; i < size; ++i) length += pickled_bytes(tokens[i]);
            message.put(PROTOCOL << 16 | 5 << 8 | FRAME, 3);
            message.put_little(length, 8);
            message.put(SHORT_BINBYTES << 8 | parent_bytes, 2);
        } else {
            put_head(message, ARRAY, 3);
            put_head(message, BYTES, parent_bytes);
        }
        for (int i = 0; i < parent_bytes; ++i) message.put(parent[i], 1);
        if (kind != PICKLE) return put_head(message, ARRAY, size);
        message.put(MEMOIZE, 1);
        if (size > 3) message.put(MARK, 1);
        if (size == 0) message.put(EMPTY_TUPLE, 1);
    }

    __device__ void put_token(Message& message, word value, word number) const {
        if (kind != PICKLE) return put_head(message, value < 0 ? NEGATIVE : UNSIGNED, value < 0 ? ~value : value);
        put_pickled(message, value);
        if (number < size) return;
        message.put(size > 3 ? TUPLE : TUPLE1 + size - 1, 1);
        message.put(MEMOIZE, 1);
    }
};

// One thread per chain: each of the first `at_once` threads of a warp, which is a block. parents u8 [chains,
// parent_stride]; spans word [1 or blocks, 2]; out u8 [blocks, out_stride], in rows that begin at multiples of 8.
template <typename Token>
__device__ void hash_chain(int kind, const Token* tokens, const word* starts, const word* counts,
                           const word* bases, word chains, int at_once, word size, const u8* parents,
                           word parent_stride, const int* parent_bytes, const u8* endings,
                           const word* spans, word num_spans, u8* out, word out_stride) {
#ifdef __CUDACC__
    __shared__ u32 rings[RING * WARP];
    u32* ring = rings + threadIdx.x % WARP;
#else
    u32 ring[RING];
#endif
    const word chain = static_cast<word>(blockIdx.x) * at_once + threadIdx.x;
    const bool exists = static_cast<int>(threadIdx.x) < at_once && chain < chains;
    const word count = exists ? counts[chain] : 0;
    Chain<Token> it{kind, nullptr, size, exists ? parents + chain * parent_stride : nullptr,
                    exists ? parent_bytes[chain] : 0, nullptr, 0};
    for (word block = 0; any(block < count); ++block) {
        const bool hashes = block < count;
        const word place = hashes ? bases[chain] + block : 0;
        const word* span = spans + (num_spans == 1 ? 0 : 2 * place);
        if (hashes) {
            it.tokens = tokens + starts[chain] + block * size;
            it.ending = endings + span[0];
            it.ending_bytes = span[1] - span[0];
        }
        Sha256 sha;
        sha.begin();
        Message message{ring};
        const word steps = hashes ? it.steps() : 0;
        for (word step = 0; any(step < steps || message.hashed < message.written); ++step) {
            if (step < steps) it.put_step(message, step);
            const bool ends = !any(step + 1 < steps), full = any(message.written - message.hashed > RING - STEP_WORDS);
            if (!ends && !full) continue;
            const bool active = message.written - message.hashed >= PIECE;
            sha.compress(ring, message.hashed, active);
            if (active) message.hashed += PIECE;
        }
        if (!hashes) continue;
        u32* row = reinterpret_cast<u32*>(out + place * out_stride);
#pragma unroll
        for (int i = 0; i < 8; ++i) row[i] = swapped(sha.state[i]);
        it.parent = out + place * out_stride;
        it.parent_bytes = DIGEST_BYTES;
    }
}

}  // namespace kvgpu

#define HASH_CHAINS(NAME, TOKEN)                                                             \
    extern "C" __global__ void NAME(int kind, const TOKEN* tokens, const word* starts,             \
                                    const word* counts, const word* bases, word chains, int at_once, \
                                    word size, const u8* parents, word parent_stride,              \
                                    const int* parent_bytes, const u8* endings, const word* spans, \
                                    word num_spans, u8* out, word out_stride) {                    \
        kvgpu::hash_chain(kind, tokens, starts, counts, bases, chains, at_once, size, parents,     \
                          parent_stride, parent_bytes, endings, spans, num_spans, out, out_stride); \
    }

HASH_CHAINS(sha256_int32, int)
HASH_CHAINS(sha256_int64, word)
