// Vectors of 4 lanes: 64-bit ARM with the dot product (Raspberry Pi 5, Graviton 2, Apple).
#pragma once

#include <arm_neon.h>

#include "kernels.h"

namespace {

typedef float32x4_t Float;
typedef int32x4_t Int;
typedef int8x16_t Codes;

constexpr int kLanes = 4;
constexpr int kMostRows = 4;
constexpr uint8_t kFlip = 0x80;  // the dot product takes signed operands

inline Float load(const float* p) { return vld1q_f32(p); }
inline Int load(const int32_t* p) { return vld1q_s32(p); }
inline Int load(const edgeprune::Word* p) {
    return vreinterpretq_s32_u8(vld1q_u8(reinterpret_cast<const uint8_t*>(p)));
}
inline void store(float* p, Float v) { vst1q_f32(p, v); }
inline void store(int32_t* p, Int v) { vst1q_s32(p, v); }
// Rounds to the nearest of 0...255.
inline void store_bytes(uint8_t* p, const Int (&v)[4]) {
    const uint16x8_t low = vcombine_u16(vqmovun_s32(v[0]), vqmovun_s32(v[1]));
    const uint16x8_t high = vcombine_u16(vqmovun_s32(v[2]), vqmovun_s32(v[3]));
    vst1q_u8(p, vcombine_u8(vqmovn_u16(low), vqmovn_u16(high)));
}
inline Float splat(float v) { return vdupq_n_f32(v); }
inline Int splat(int32_t v) { return vdupq_n_s32(v); }
inline Float add(Float a, Float b) { return vaddq_f32(a, b); }
inline Int add(Int a, Int b) { return vaddq_s32(a, b); }
inline Float sub(Float a, Float b) { return vsubq_f32(a, b); }
inline Float mul(Float a, Float b) { return vmulq_f32(a, b); }
inline Int mul(Int a, Int b) { return vmulq_s32(a, b); }
inline Float div(Float a, Float b) { return vdivq_f32(a, b); }
inline Float fma(Float a, Float b, Float c) { return vfmaq_f32(c, a, b); }
inline Float reciprocal(Float v) { return div(splat(1.0f), v); }
inline Float minimum(Float a, Float b) { return vminq_f32(a, b); }
inline Float maximum(Float a, Float b) { return vmaxq_f32(a, b); }
// The larger magnitude.
inline Float larger(Float a, Float b) { return vmaxq_f32(vabsq_f32(a), vabsq_f32(b)); }
inline bool any_above(Float a, float bound) { return vmaxvq_u32(vcgtq_f32(a, splat(bound))) != 0; }
inline Int bits_of(Float v) { return vreinterpretq_s32_f32(v); }
inline Float to_float(Int v) { return vcvtq_f32_s32(v); }
inline Int round_to_int(Float v) { return vcvtnq_s32_f32(v); }
inline Float times_power_of_two(Float v, Int n) {
    return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(v), vshlq_n_s32(n, 23)));
}

inline Codes make_codes(Int w) { return vreinterpretq_s8_s32(w); }
inline Int dot(Int sums, Int x, Codes w) { return vdotq_s32(sums, vreinterpretq_s8_s32(x), w); }

// One vector holds four rows of a packed tile; the instructions select one of its lanes.
template <int Rows>
inline void multiply_rows(Int (&sums)[Rows][4], const edgeprune::Word* x, const int8_t* values) {
    if constexpr (Rows == 4) {
        const Codes codes = make_codes(load(x));
        for (int p = 0; p < 4; p++) {
            const Codes w = vld1q_s8(values + 16 * p);
            sums[0][p] = vdotq_laneq_s32(sums[0][p], w, codes, 0);
            sums[1][p] = vdotq_laneq_s32(sums[1][p], w, codes, 1);
            sums[2][p] = vdotq_laneq_s32(sums[2][p], w, codes, 2);
            sums[3][p] = vdotq_laneq_s32(sums[3][p], w, codes, 3);
        }
    } else {
        for (int p = 0; p < 4; p++) {
            const Codes w = vld1q_s8(values + 16 * p);
            for (int i = 0; i < Rows; i++) sums[i][p] = dot(sums[i][p], splat(int32_t(x[i])), w);
        }
    }
}

template <int Rows>
inline void multiply_rows(Float (&sums)[Rows][4], const float* x, const float* values) {
    for (int p = 0; p < 4; p++) {
        const Float w = load(values + 4 * p);
        for (int i = 0; i < Rows; i++) sums[i][p] = vfmaq_n_f32(sums[i][p], w, x[i]);
    }
}

// Quantized linears.
typedef Int Partial;
constexpr bool kNarrow = false;
constexpr int kQuantRows = 4, kDenseStrips = 1;
constexpr int64_t kUnpackRows = 8;
inline Int no_products() { return vdupq_n_s32(0); }
inline void add_products(Int& sums, Int codes, Int x) {
    sums = vdotq_s32(sums, vreinterpretq_s8_s32(codes), vreinterpretq_s8_s32(x));
}
inline Int total(Int sums) { return sums; }
inline Int low_halves(Int v) { return vandq_s32(v, vdupq_n_s32(0x0f0f0f0f)); }
inline Int high_halves(Int v) {
    return vreinterpretq_s32_u8(vshrq_n_u8(vreinterpretq_u8_s32(v), 4));
}
inline Int exclusive_or(Int a, Int b) { return veorq_s32(a, b); }
inline Int sign_of(Int v) { return vshrq_n_s32(v, 31); }
inline Int mul_words(Int a, Int b) {
    return vreinterpretq_s32_u16(vmulq_u16(vreinterpretq_u16_s32(a), vreinterpretq_u16_s32(b)));
}
inline Int widened(const int8_t* p) {
    int32_t word;
    __builtin_memcpy(&word, p, sizeof word);
    return vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(word)))));
}

inline void transpose(Float (&rows)[4]) {
    const Float a = vtrn1q_f32(rows[0], rows[1]), b = vtrn2q_f32(rows[0], rows[1]);
    const Float c = vtrn1q_f32(rows[2], rows[3]), d = vtrn2q_f32(rows[2], rows[3]);
    rows[0] = vcombine_f32(vget_low_f32(a), vget_low_f32(c));
    rows[1] = vcombine_f32(vget_low_f32(b), vget_low_f32(d));
    rows[2] = vcombine_f32(vget_high_f32(a), vget_high_f32(c));
    rows[3] = vcombine_f32(vget_high_f32(b), vget_high_f32(d));
}

// Attention: 24 sums, beside four vectors, in 32 registers.
constexpr int kTileRows = 6;
constexpr int kTileVectors = 4;
inline float highest(Float v) { return vmaxvq_f32(v); }
inline Float load_half(const uint16_t* p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
inline void store_half(uint16_t* p, Float v) {
    vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v)));
}
inline Int widened(const int8_t* p) {
    int32_t word;
    __builtin_memcpy(&word, p, sizeof word);
    return vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(word)))));
}

}  // namespace
