// Vectors of 8 lanes: AVX2 with FMA, and with AVX-VNNI where the file is compiled for it.
#pragma once

#include <immintrin.h>

#include "kernels.h"

namespace {

typedef __m256 Float;
typedef __m256i Int;

constexpr int kLanes = 8;
constexpr int kMostRows = 4;  // two vectors each, beside weights and codes in 16 registers
constexpr uint8_t kFlip = 0;

inline const __m256i* ints(const void* p) { return static_cast<const __m256i*>(p); }

inline Float load(const float* p) { return _mm256_loadu_ps(p); }
inline Int load(const int32_t* p) { return _mm256_loadu_si256(ints(p)); }
inline Int load(const edgeprune::Word* p) { return _mm256_loadu_si256(ints(p)); }
inline void store(float* p, Float v) { _mm256_storeu_ps(p, v); }
inline void store(int32_t* p, Int v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
// Rounds to the nearest of 0...255. Packing works within halves, which are reordered last.
inline void store_bytes(uint8_t* p, const Int (&v)[4]) {
    const Int low = _mm256_packs_epi32(v[0], v[1]), high = _mm256_packs_epi32(v[2], v[3]);
    const Int order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const Int bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bytes);
}
inline Float splat(float v) { return _mm256_set1_ps(v); }
inline Int splat(int32_t v) { return _mm256_set1_epi32(v); }
inline Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
inline Int add(Int a, Int b) { return _mm256_add_epi32(a, b); }
inline Float sub(Float a, Float b) { return _mm256_sub_ps(a, b); }
inline Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
inline Int mul(Int a, Int b) { return _mm256_mullo_epi32(a, b); }
inline Float div(Float a, Float b) { return _mm256_div_ps(a, b); }
inline Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
// A 12-bit estimate and a Newton step.
inline Float reciprocal(Float v) {
    const Float first = _mm256_rcp_ps(v);
    return mul(first, _mm256_fnmadd_ps(v, first, splat(2.0f)));
}
inline Float minimum(Float a, Float b) { return _mm256_min_ps(a, b); }
inline Float maximum(Float a, Float b) { return _mm256_max_ps(a, b); }
// The larger magnitude; a is already positive.
inline Float larger(Float a, Float b) {
    return _mm256_max_ps(a, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), b));
}
inline bool any_above(Float a, float bound) {
    return _mm256_movemask_ps(_mm256_cmp_ps(a, splat(bound), _CMP_GT_OQ)) != 0;
}
inline Int bits_of(Float v) { return _mm256_castps_si256(v); }
inline Float to_float(Int v) { return _mm256_cvtepi32_ps(v); }
inline Int round_to_int(Float v) {
    return _mm256_cvtps_epi32(_mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline Float times_power_of_two(Float v, Int n) {
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), _mm256_slli_epi32(n, 23)));
}

#if defined(__AVXVNNI__)
typedef __m256i Codes;
inline Codes make_codes(Int w) { return w; }
inline Int dot(Int sums, Int x, Codes w) { return _mm256_dpbusd_avx_epi32(sums, x, w); }
#else
// Even and odd codes as 16-bit numbers. Multiplying bytes directly would halve the work, but its
// 16-bit sums saturate: 2 * 255 * 127 is 64,770.
struct Codes {
    __m256i even, odd;
};
inline Codes make_codes(Int w) {
    return {_mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8), _mm256_srai_epi16(w, 8)};
}
inline Int dot(Int sums, Int x, Codes w) {
    const __m256i even = _mm256_and_si256(x, _mm256_set1_epi16(0xff)), odd = _mm256_srli_epi16(x, 8);
    const Int pairs =
        _mm256_add_epi32(_mm256_madd_epi16(even, w.even), _mm256_madd_epi16(odd, w.odd));
    return _mm256_add_epi32(sums, pairs);
}
#endif

template <int Rows>
inline void multiply_rows(Int (&sums)[Rows][2], const edgeprune::Word* x, const int8_t* values) {
    const Codes low = make_codes(_mm256_loadu_si256(ints(values)));
    const Codes high = make_codes(_mm256_loadu_si256(ints(values + 32)));
    for (int i = 0; i < Rows; i++) {
        const Int codes = splat(int32_t(x[i]));
        sums[i][0] = dot(sums[i][0], codes, low);
        sums[i][1] = dot(sums[i][1], codes, high);
    }
}

template <int Rows>
inline void multiply_rows(Float (&sums)[Rows][2], const float* x, const float* values) {
    const Float low = load(values), high = load(values + 8);
    for (int i = 0; i < Rows; i++) {
        const Float value = splat(x[i]);
        sums[i][0] = fma(value, low, sums[i][0]);
        sums[i][1] = fma(value, high, sums[i][1]);
    }
}

inline void transpose(Float (&rows)[8]) {
    Float a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
        a[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            b[i + 2 * j] = _mm256_shuffle_ps(a[i + j], a[i + j + 2], 0x44);
            b[i + 2 * j + 1] = _mm256_shuffle_ps(a[i + j], a[i + j + 2], 0xee);
        }
    for (int c = 0; c < 4; c++) {
        rows[c] = _mm256_permute2f128_ps(b[c], b[4 + c], 0x20);
        rows[4 + c] = _mm256_permute2f128_ps(b[c], b[4 + c], 0x31);
    }
}

// Quantized linears.
inline Int no_products() { return _mm256_setzero_si256(); }
#if defined(__AVXVNNI__)
typedef Int Partial;
constexpr bool kNarrow = false;
constexpr int64_t kUnpackRows = 12;
inline void add_products(Int& sums, Int codes, Int x) {
    sums = _mm256_dpbusd_avx_epi32(sums, codes, x);
}
inline Int total(Int sums) { return sums; }
#else
// Halves of a byte, so that 16 bits hold the sums: 8 * 2 * 15 * 128 is 30,720.
typedef Int Partial;
constexpr bool kNarrow = true;
constexpr int64_t kUnpackRows = INT64_MAX;  // a product of whole bytes takes more than of halves
inline void add_products(Int& sums, Int codes, Int x) {
    sums = _mm256_add_epi16(sums, _mm256_maddubs_epi16(codes, x));
}
inline Int total(Int sums) { return _mm256_madd_epi16(sums, _mm256_set1_epi16(1)); }
#endif
constexpr int kQuantRows = 4, kDenseStrips = 1;
inline Int low_halves(Int v) { return _mm256_and_si256(v, _mm256_set1_epi8(0x0f)); }
inline Int high_halves(Int v) { return low_halves(_mm256_srli_epi16(v, 4)); }
inline Int exclusive_or(Int a, Int b) { return _mm256_xor_si256(a, b); }
inline Int sign_of(Int v) { return _mm256_srai_epi32(v, 31); }
inline Int mul_words(Int a, Int b) { return _mm256_mullo_epi16(a, b); }
inline Int widened(const int8_t* p) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}

// Attention: 12 sums, beside two vectors and a row's number, in 16 registers.
constexpr int kTileRows = 6;
constexpr int kTileVectors = 2;
inline float highest(Float v) {
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
inline Float load_half(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline void store_half(uint16_t* p, Float v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

}  // namespace
