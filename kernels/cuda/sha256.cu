// SHA-256 of serialised blocks, one chain per thread: the twin of kvgpu.hashing.serialised.messages and .digests.
//
// A message is hashed while it is written, byte by byte, so that no thread needs memory for it.

typedef long long word;
typedef unsigned int u32;
typedef unsigned char u8;

namespace kvgpu {

enum { PICKLE = 0 };
enum { PROTOCOL = 0x80, FRAME = 0x95, SHORT_BINBYTES = 0x43, MEMOIZE = 0x94, MARK = 0x28 };
enum { TUPLE = 0x74, TUPLE1 = 0x85, EMPTY_TUPLE = 0x29 };
enum { BININT = 0x4A, BININT1 = 0x4B, BININT2 = 0x4D, LONG1 = 0x8A };
enum { UNSIGNED = 0x00, NEGATIVE = 0x20, BYTES = 0x40, ARRAY = 0x80 };
enum { DIGEST_BYTES = 32, PIECE_BYTES = 64, FRAME_HEAD = 11 };

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

struct Sha256 {
    u32 state[8];
    u32 piece[16];
    u32 last;    // up to four bytes that are not in `piece` yet
    u32 length;  // bytes so far

    __device__ void begin() {
        const u32 start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                              0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
        for (int i = 0; i < 8; ++i) state[i] = start[i];
        last = length = 0;
    }

    __device__ void put(u32 byte) {
        last = (last << 8) | (byte & 0xFF);
        ++length;
        if (length % 4 == 0) piece[(length / 4 - 1) % 16] = last;
        if (length % PIECE_BYTES == 0) compress();
    }

    __device__ __noinline__ void compress() {
        u32 w[16], s[8];
#pragma unroll
        for (int i = 0; i < 16; ++i) w[i] = piece[i];
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
        for (int i = 0; i < 8; ++i) state[i] += s[i];
    }

    __device__ void finish(u8* out) {
        const u32 bits = 8 * length;  // messages are far below 2**29 bytes
        put(0x80);
        while (length % PIECE_BYTES != PIECE_BYTES - 8) put(0);
        for (int i = 0; i < 4; ++i) put(0);
        for (int shift = 24; shift >= 0; shift -= 8) put(bits >> shift);
        for (int i = 0; i < DIGEST_BYTES; ++i) out[i] = state[i / 4] >> (24 - i % 4 * 8);
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

__device__ inline void put_pickled(Sha256& sha, word value) {
    int count = pickled_bytes(value) - 1;
    sha.put(count == 1 ? BININT1 : count == 2 ? BININT2 : count == 4 ? BININT : LONG1);
    if (count > 4) sha.put(--count);
    for (int byte = 0; byte < count; ++byte) sha.put(static_cast<u32>(value >> (8 * byte)));
}

// A CBOR head in its shortest form; value >= 0.
__device__ inline void put_head(Sha256& sha, u32 major, word value) {
    if (value < 24) return sha.put(major + static_cast<u32>(value));
    int code = 24;
    while (code < 27 && value >> (8 << (code - 24)) != 0) ++code;
    sha.put(major + code);
    for (int byte = (1 << (code - 24)) - 1; byte >= 0; --byte)
        sha.put(static_cast<u32>(value >> (8 * byte)));
}

template <typename Token>
__device__ void hash_block(int kind, const u8* parent, int parent_bytes, const Token* tokens, word size,
                           const u8* ending, word ending_bytes, u8* out) {
    Sha256 sha;
    sha.begin();
    if (kind == PICKLE) {
        word length = 2 + parent_bytes + 1 + (size > 3) + (size ? 2 : 1) + ending_bytes;
        for (word i = 0; i < size; ++i) length += pickled_bytes(tokens[i]);
        sha.put(PROTOCOL), sha.put(5), sha.put(FRAME);
        for (int byte = 0; byte < 8; ++byte) sha.put(static_cast<u32>(length >> (8 * byte)));
        sha.put(SHORT_BINBYTES), sha.put(parent_bytes);
        for (int i = 0; i < parent_bytes; ++i) sha.put(parent[i]);
        sha.put(MEMOIZE);
        if (size > 3) sha.put(MARK);
        for (word i = 0; i < size; ++i) put_pickled(sha, tokens[i]);
        if (size > 3) sha.put(TUPLE);
        else if (size > 0) sha.put(TUPLE1 + static_cast<u32>(size) - 1);
        else sha.put(EMPTY_TUPLE);
        if (size > 0) sha.put(MEMOIZE);
    } else {
        put_head(sha, ARRAY, 3);
        put_head(sha, BYTES, parent_bytes);
        for (int i = 0; i < parent_bytes; ++i) sha.put(parent[i]);
        put_head(sha, ARRAY, size);
        for (word i = 0; i < size; ++i) {
            const word value = tokens[i];
            put_head(sha, value < 0 ? NEGATIVE : UNSIGNED, value < 0 ? ~value : value);
        }
    }
    for (word i = 0; i < ending_bytes; ++i) sha.put(ending[i]);
    sha.finish(out);
}

// One thread per chain. parents u8 [chains, parent_stride]; spans word [1 or blocks, 2]; out u8 [blocks, out_stride].
template <typename Token>
__device__ void hash_chain(int kind, const Token* tokens, const word* starts, const word* counts,
                           const word* bases, word chains, word size, const u8* parents,
                           word parent_stride, const int* parent_bytes, const u8* endings,
                           const word* spans, word num_spans, u8* out, word out_stride) {
    const word chain = static_cast<word>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (chain >= chains) return;
    const u8* parent = parents + chain * parent_stride;
    int length = parent_bytes[chain];
    for (word block = 0; block < counts[chain]; ++block) {
        const word place = bases[chain] + block;
        const word* span = spans + (num_spans == 1 ? 0 : 2 * place);
        u8* row = out + place * out_stride;
        hash_block(kind, parent, length, tokens + starts[chain] + block * size, size,
                   endings + span[0], span[1] - span[0], row);
        parent = row;
        length = DIGEST_BYTES;
    }
}

}  // namespace kvgpu

#define HASH_CHAINS(NAME, TOKEN)                                                             \
    extern "C" __global__ void NAME(int kind, const TOKEN* tokens, const word* starts,             \
                                    const word* counts, const word* bases, word chains, word size, \
                                    const u8* parents, word parent_stride, const int* parent_bytes, \
                                    const u8* endings, const word* spans, word num_spans, u8* out, \
                                    word out_stride) {                                             \
        kvgpu::hash_chain(kind, tokens, starts, counts, bases, chains, size, parents,              \
                          parent_stride, parent_bytes, endings, spans, num_spans, out, out_stride); \
    }

HASH_CHAINS(sha256_int32, int)
HASH_CHAINS(sha256_int64, word)
