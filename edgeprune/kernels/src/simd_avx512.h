// Vectors of 16 lanes: AVX-512 with VNNI (Intel from Ice Lake on, AMD from Zen 4 on).
#pragma once

#include <immintrin.h>

#include "kernels.h"

namespace {

typedef __m512 Float;
typedef __m512i Int;
typedef __m512i Codes;

constexpr int kLanes = 16;
constexpr int kMostRows = 16;  // rows summed at once, in 16 of the 32 registers
constexpr uint8_t kFlip = 0;

inline Float load(const float* p) { return _mm512_loadu_ps(p); }
inline Int load(const int32_t* p) { return _mm512_loadu_si512(p); }
inline Int load(const edgeprune::Word* p) { return _mm512_loadu_si512(p); }
inline void store(float* p, Float v) { _mm512_storeu_ps(p, v); }
inline void store(int32_t* p, Int v) { _mm512_storeu_si512(p, v); }
// Rounds to the nearest of 0...255. Packing works within quarters, which are reordered last.
inline void store_bytes(uint8_t* p, const Int (&v)[4]) {
    const Int low = _mm512_packs_epi32(v[0], v[1]), high = _mm512_packs_epi32(v[2], v[3]);
    const Int order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_storeu_si512(p, _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high)));
}
inline Float splat(float v) { return _mm512_set1_ps(v); }
inline Int splat(int32_t v) { return _mm512_set1_epi32(v); }
inline Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
inline Int add(Int a, Int b) { return _mm512_add_epi32(a, b); }
inline Float sub(Float a, Float b) { return _mm512_sub_ps(a, b); }
inline Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
inline Int mul(Int a, Int b) { return _mm512_mullo_epi32(a, b); }
inline Float div(Float a, Float b) { return _mm512_div_ps(a, b); }
inline Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
// A 14-bit estimate and a Newton step.
inline Float reciprocal(Float v) {
    const Float first = _mm512_rcp14_ps(v);
    return mul(first, _mm512_fnmadd_ps(v, first, splat(2.0f)));
}
inline Float minimum(Float a, Float b) { return _mm512_min_ps(a, b); }
inline Float maximum(Float a, Float b) { return _mm512_max_ps(a, b); }
// The larger magnitude.
inline Float larger(Float a, Float b) { return _mm512_range_ps(a, b, 0b1011); }
inline bool any_above(Float a, float bound) {
    return _mm512_cmp_ps_mask(a, splat(bound), _CMP_GT_OQ) != 0;
}
inline Int bits_of(Float v) { return _mm512_castps_si512(v); }
inline Float to_float(Int v) { return _mm512_cvtepi32_ps(v); }
inline Int round_to_int(Float v) {
    return _mm512_cvt_roundps_epi32(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline Float times_power_of_two(Float v, Int n) {
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(v), _mm512_slli_epi32(n, 23)));
}

inline Codes make_codes(Int w) { return w; }
inline Int dot(Int sums, Int x, Codes w) { return _mm512_dpbusd_epi32(sums, x, w); }

template <int Rows>
inline void multiply_rows(Int (&sums)[Rows][1], const edgeprune::Word* x, const int8_t* values) {
    const Int w = _mm512_loadu_si512(values);
    for (int i = 0; i < Rows; i++) sums[i][0] = dot(sums[i][0], splat(int32_t(x[i])), w);
}

template <int Rows>
inline void multiply_rows(Float (&sums)[Rows][1], const float* x, const float* values) {
    const Float w = load(values);
    for (int i = 0; i < Rows; i++) sums[i][0] = fma(splat(x[i]), w, sums[i][0]);
}

// Transposes 16 x 16: pairs, then fours of lanes within quarters, then the quarters.
inline void transpose(Float (&rows)[16]) {
    Float a[16], b[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
        a[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            const __m512d low = _mm512_castps_pd(a[i + j]), high = _mm512_castps_pd(a[i + j + 2]);
            b[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
            b[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
        }
    // b[4 r + c], quarter q: column 4 q + c of rows 4 r ... 4 r + 3.
    for (int c = 0; c < 4; c++) {
        const Float even_low = _mm512_shuffle_f32x4(b[c], b[4 + c], 0x88);
        const Float even_high = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], 0x88);
        const Float odd_low = _mm512_shuffle_f32x4(b[c], b[4 + c], 0xdd);
        const Float odd_high = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], 0xdd);
        rows[c] = _mm512_shuffle_f32x4(even_low, even_high, 0x88);
        rows[4 + c] = _mm512_shuffle_f32x4(odd_low, odd_high, 0x88);
        rows[8 + c] = _mm512_shuffle_f32x4(even_low, even_high, 0xdd);
        rows[12 + c] = _mm512_shuffle_f32x4(odd_low, odd_high, 0xdd);
    }
}

// Quantized linears: 8 rows with two chains each and a sum, beside codes, in 32 registers.
typedef Int Partial;
constexpr bool kNarrow = false;
constexpr int kQuantRows = 8, kDenseStrips = 2;
constexpr int64_t kUnpackRows = 8;
inline Int no_products() { return _mm512_setzero_si512(); }
inline void add_products(Int& sums, Int codes, Int x) { sums = _mm512_dpbusd_epi32(sums, codes, x); }
inline Int total(Int sums) { return sums; }
inline Int low_halves(Int v) { return _mm512_and_si512(v, _mm512_set1_epi8(0x0f)); }
inline Int high_halves(Int v) { return low_halves(_mm512_srli_epi16(v, 4)); }
inline Int exclusive_or(Int a, Int b) { return _mm512_xor_si512(a, b); }
inline Int sign_of(Int v) { return _mm512_srai_epi32(v, 31); }
inline Int mul_words(Int a, Int b) { return _mm512_mullo_epi16(a, b); }
inline Int widened(const int8_t* p) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

// Attention: 24 sums, beside four vectors, in 32 registers.
constexpr int kTileRows = 6;
constexpr int kTileVectors = 4;
inline float highest(Float v) { return _mm512_reduce_max_ps(v); }
inline Float load_half(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline void store_half(uint16_t* p, Float v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

}  // namespace
