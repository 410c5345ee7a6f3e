// What PTX instructions compute, as functions named like them: `mul.wide.s32` is mul_wide<s32>. Integers only. Arguments
// are converted to the types of the instruction, results to that of the register (PTX ISA 9.0, chapter 9.7).
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <type_traits>

namespace ptx {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using s8 = std::int8_t;
using s16 = std::int16_t;
using s32 = std::int32_t;
using s64 = std::int64_t;
using b8 = u8;
using b16 = u16;
using b32 = u32;
using b64 = u64;
using pred = bool;

template <class T> constexpr int BITS = 8 * sizeof(T);
template <class T> struct Unsigned { using type = std::make_unsigned_t<T>; };
template <> struct Unsigned<bool> { using type = bool; };
template <class T> using U = typename Unsigned<T>::type;
template <class T> using Twice = std::conditional_t<
    sizeof(T) == 8, std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>,
    std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, s64, u64>,
                       std::conditional_t<std::is_signed_v<T>, s32, u32>>>;

template <class T> T mov(T a) { return a; }
template <class T> T cvta(T a) { return a; }
template <class T> T cvta_to_global(T a) { return a; }
template <class T> T cvta_to_local(T a) { return a; }
template <class T> T cvta_global(T a) { return a; }
template <class T> T cvta_local(T a) { return a; }
template <class To, class From> To cvt(From a) { return static_cast<To>(a); }

template <class T> T add(T a, T b) { return static_cast<T>(static_cast<U<T>>(a) + static_cast<U<T>>(b)); }
template <class T> T sub(T a, T b) { return static_cast<T>(static_cast<U<T>>(a) - static_cast<U<T>>(b)); }
template <class T> T neg(T a) { return sub<T>(0, a); }
template <class T> T abs(T a) { return a < 0 ? neg<T>(a) : a; }
template <class T> T min(T a, T b) { return std::min(a, b); }
template <class T> T max(T a, T b) { return std::max(a, b); }
template <class T> Twice<T> mul_wide(T a, T b) { return static_cast<Twice<T>>(a) * b; }
template <class T> T mul_lo(T a, T b) { return static_cast<T>(static_cast<Twice<U<T>>>(static_cast<U<T>>(a)) * static_cast<U<T>>(b)); }
template <class T> T mul_hi(T a, T b) { return static_cast<T>(static_cast<Twice<T>>(a) * b >> BITS<T>); }
template <class T> T mad_lo(T a, T b, T c) { return add<T>(mul_lo<T>(a, b), c); }
template <class T> T mad_hi(T a, T b, T c) { return add<T>(mul_hi<T>(a, b), c); }
template <class T> Twice<T> mad_wide(T a, T b, Twice<T> c) { return add<Twice<T>>(mul_wide<T>(a, b), c); }
// Division by zero, and of the smallest number by -1, have no specified result; they must only not trap.
template <class T> bool divides(T b) { return b != 0 && (std::is_unsigned_v<T> || b != static_cast<T>(-1)); }
template <class T> T div(T a, T b) { return divides(b) ? a / b : b == 0 ? static_cast<T>(-1) : neg<T>(a); }
template <class T> T rem(T a, T b) { return divides(b) ? a % b : b == 0 ? a : 0; }

template <class T> T and_(T a, T b) { return a & b; }
template <class T> T or_(T a, T b) { return a | b; }
template <class T> T xor_(T a, T b) { return a ^ b; }
template <class T> T not_(T a) {
    if constexpr (std::is_same_v<T, bool>) return !a;
    else return static_cast<T>(~a);
}
template <class T> T shl(T a, u32 count) { return count >= BITS<T> ? 0 : static_cast<T>(static_cast<U<T>>(a) << count); }
template <class T> T shr(T a, u32 count) { return static_cast<T>(count < BITS<T> ? a >> count : a < 0 ? -1 : 0); }
template <class T> T shf_l_wrap(T low, T high, u32 count) {
    count &= 31;
    return count ? high << count | low >> (32 - count) : high;
}
template <class T> T shf_r_wrap(T low, T high, u32 count) {
    count &= 31;
    return count ? low >> count | high << (32 - count) : low;
}
template <class T> T prmt(T a, T b, u32 selectors) {
    const u64 bytes = static_cast<u64>(b) << 32 | a;
    u32 result = 0;
    for (int i = 0; i < 4; ++i) {
        const u32 selector = selectors >> (4 * i);
        u8 byte = static_cast<u8>(bytes >> (8 * (selector & 7)));
        if (selector & 8) byte = byte & 0x80 ? 0xFF : 0;
        result |= static_cast<u32>(byte) << (8 * i);
    }
    return result;
}
template <class T> T lop3(T a, T b, T c, u32 table) {
    T result = 0;
    for (int i = 0; i < 8; ++i)
        if (table >> i & 1) result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return result;
}
template <class T> T bfe(T a, u32 from, u32 count) {
    from &= 255, count &= 255;
    if (count == 0 || from >= BITS<T>) return std::is_signed_v<T> && count && a < 0 ? -1 : 0;
    count = std::min<u32>(count, BITS<T> - from);
    return static_cast<T>(static_cast<T>(static_cast<U<T>>(a) << (BITS<T> - from - count)) >> (BITS<T> - count));
}
template <class T> T bfi(T a, T b, u32 to, u32 count) {
    to &= 255, count &= 255;
    const T ones = count >= BITS<T> ? static_cast<T>(-1) : static_cast<T>((T{1} << count) - 1);
    return to >= BITS<T> ? b : static_cast<T>((b & ~(ones << to)) | (a & ones) << to);
}
template <class T> u32 popc(T a) { return static_cast<u32>(std::popcount(a)); }
template <class T> u32 clz(T a) { return static_cast<u32>(std::countl_zero(a)); }
template <class T> u32 bfind(T a) { return static_cast<u32>(BITS<T> - 1 - std::countl_zero(static_cast<U<T>>(std::is_signed_v<T> && a < 0 ? ~a : a))); }
template <class T> u32 bfind_shiftamt(T a) { return bfind<T>(a) == ~0u ? ~0u : BITS<T> - 1 - bfind<T>(a); }
template <class T> T brev(T a) {
    T result = 0;
    for (int i = 0; i < BITS<T>; ++i) result |= static_cast<T>((a >> i & 1) << (BITS<T> - 1 - i));
    return result;
}

template <class T> T selp(T a, T b, bool chosen) { return chosen ? a : b; }
template <class T> bool setp_eq(T a, T b) { return a == b; }
template <class T> bool setp_ne(T a, T b) { return a != b; }
template <class T> bool setp_lt(T a, T b) { return a < b; }
template <class T> bool setp_le(T a, T b) { return a <= b; }
template <class T> bool setp_gt(T a, T b) { return a > b; }
template <class T> bool setp_ge(T a, T b) { return a >= b; }
template <class T> bool setp_eq_and(T a, T b, bool c) { return a == b && c; }
template <class T> bool setp_ne_and(T a, T b, bool c) { return a != b && c; }
template <class T> bool setp_lt_and(T a, T b, bool c) { return a < b && c; }
template <class T> bool setp_le_and(T a, T b, bool c) { return a <= b && c; }
template <class T> bool setp_gt_and(T a, T b, bool c) { return a > b && c; }
template <class T> bool setp_ge_and(T a, T b, bool c) { return a >= b && c; }
template <class T> bool setp_eq_or(T a, T b, bool c) { return a == b || c; }
template <class T> bool setp_ne_or(T a, T b, bool c) { return a != b || c; }
template <class T> bool setp_lt_or(T a, T b, bool c) { return a < b || c; }
template <class T> bool setp_le_or(T a, T b, bool c) { return a <= b || c; }
template <class T> bool setp_gt_or(T a, T b, bool c) { return a > b || c; }
template <class T> bool setp_ge_or(T a, T b, bool c) { return a >= b || c; }

// What an atomic instruction stores where `old` was.
template <class T> T atom_add(T old, T a) { return add<T>(old, a); }
template <class T> T atom_or(T old, T a) { return old | a; }
template <class T> T atom_and(T old, T a) { return old & a; }
template <class T> T atom_xor(T old, T a) { return old ^ a; }
template <class T> T atom_min(T old, T a) { return std::min(old, a); }
template <class T> T atom_max(T old, T a) { return std::max(old, a); }
template <class T> T atom_exch(T, T a) { return a; }
template <class T> T atom_cas(T old, T expected, T desired) { return old == expected ? desired : old; }

}  // namespace ptx
