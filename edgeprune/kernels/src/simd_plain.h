// Four lanes in plain C++: for all other processors, and as the reference for the other sets.
#pragma once

#include <math.h>
#include <string.h>

#include "kernels.h"

namespace {

struct Float {
    float lane[4];
};
// Unsigned, because an overflowing sum must wrap as the instructions do.
struct Int {
    uint32_t lane[4];
};
typedef Int Codes;

constexpr int kLanes = 4;
constexpr int kMostRows = 4;
constexpr uint8_t kFlip = 0;

template <class Out, class Operation>
inline Out each(Operation operation) {
    Out out;
    for (int i = 0; i < 4; i++) out.lane[i] = operation(i);
    return out;
}
template <class Vector>
inline Vector bits(const void* p) {
    Vector v;
    memcpy(&v, p, sizeof v);
    return v;
}

inline Float load(const float* p) { return bits<Float>(p); }
inline Int load(const int32_t* p) { return bits<Int>(p); }
inline Int load(const edgeprune::Word* p) { return bits<Int>(p); }
inline void store(float* p, Float v) { memcpy(p, &v, sizeof v); }
inline void store(int32_t* p, Int v) { memcpy(p, &v, sizeof v); }
// Rounds to the nearest of 0...255.
inline void store_bytes(uint8_t* p, const Int (&v)[4]) {
    for (int i = 0; i < 16; i++) {
        const int32_t value = int32_t(v[i / 4].lane[i % 4]);
        p[i] = uint8_t(value < 0 ? 0 : value > 255 ? 255 : value);
    }
}
inline Float splat(float v) { return {{v, v, v, v}}; }
inline Int splat(int32_t v) { return each<Int>([=](int) { return uint32_t(v); }); }
inline Float add(Float a, Float b) {
    return each<Float>([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline Int add(Int a, Int b) { return each<Int>([&](int i) { return a.lane[i] + b.lane[i]; }); }
inline Float sub(Float a, Float b) {
    return each<Float>([&](int i) { return a.lane[i] - b.lane[i]; });
}
inline Float mul(Float a, Float b) {
    return each<Float>([&](int i) { return a.lane[i] * b.lane[i]; });
}
inline Int mul(Int a, Int b) { return each<Int>([&](int i) { return a.lane[i] * b.lane[i]; }); }
inline Float div(Float a, Float b) {
    return each<Float>([&](int i) { return a.lane[i] / b.lane[i]; });
}
inline Float fma(Float a, Float b, Float c) { return add(mul(a, b), c); }
inline Float reciprocal(Float v) { return div(splat(1.0f), v); }
inline Float minimum(Float a, Float b) {
    return each<Float>([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline Float maximum(Float a, Float b) {
    return each<Float>([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
// The larger magnitude.
inline Float larger(Float a, Float b) {
    return each<Float>([&](int i) {
        const float first = fabsf(a.lane[i]), second = fabsf(b.lane[i]);
        return first > second ? first : second;
    });
}
inline bool any_above(Float a, float bound) {
    return a.lane[0] > bound || a.lane[1] > bound || a.lane[2] > bound || a.lane[3] > bound;
}
inline Int bits_of(Float v) { return bits<Int>(&v); }
inline Float to_float(Int v) {
    return each<Float>([&](int i) { return float(int32_t(v.lane[i])); });
}
inline Int round_to_int(Float v) {
    // Values beyond 32 bits become the lowest integer, as on x86.
    return each<Int>([&](int i) {
        const float whole = rintf(v.lane[i]);
        return whole > -2147483648.0f && whole < 2147483648.0f ? uint32_t(int32_t(whole))
                                                               : 0x80000000u;
    });
}
inline Float times_power_of_two(Float v, Int n) {
    const Int number = bits<Int>(&v);
    const Int sum = each<Int>([&](int i) { return number.lane[i] + (n.lane[i] << 23); });
    return bits<Float>(&sum);
}

inline Codes make_codes(Int w) { return w; }
inline Int dot(Int sums, Int x, Codes w) {
    for (int i = 0; i < 4; i++)
        for (int byte = 0; byte < 32; byte += 8) {
            const int32_t code = uint8_t(x.lane[i] >> byte), weight = int8_t(w.lane[i] >> byte);
            sums.lane[i] += uint32_t(code * weight);
        }
    return sums;
}

template <int Rows>
inline void multiply_rows(Int (&sums)[Rows][4], const edgeprune::Word* x, const int8_t* values) {
    for (int p = 0; p < 4; p++) {
        const Codes w = bits<Int>(values + 16 * p);
        for (int i = 0; i < Rows; i++) sums[i][p] = dot(sums[i][p], splat(int32_t(x[i])), w);
    }
}

template <int Rows>
inline void multiply_rows(Float (&sums)[Rows][4], const float* x, const float* values) {
    for (int p = 0; p < 4; p++) {
        const Float w = load(values + 4 * p);
        for (int i = 0; i < Rows; i++) sums[i][p] = fma(splat(x[i]), w, sums[i][p]);
    }
}

inline void transpose(Float (&rows)[4]) {
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < i; j++) {
            const float kept = rows[i].lane[j];
            rows[i].lane[j] = rows[j].lane[i];
            rows[j].lane[i] = kept;
        }
}

// Quantized linears.
typedef Int Partial;
constexpr bool kNarrow = false;
constexpr int kQuantRows = 4, kDenseStrips = 1;
constexpr int64_t kUnpackRows = 8;
inline Int no_products() { return splat(0); }
inline void add_products(Int& sums, Int codes, Int x) { sums = dot(sums, codes, x); }
inline Int total(Int sums) { return sums; }
inline Int low_halves(Int v) { return each<Int>([&](int i) { return v.lane[i] & 0x0f0f0f0fu; }); }
inline Int high_halves(Int v) {
    return each<Int>([&](int i) { return v.lane[i] >> 4 & 0x0f0f0f0fu; });
}
inline Int exclusive_or(Int a, Int b) {
    return each<Int>([&](int i) { return a.lane[i] ^ b.lane[i]; });
}
inline Int sign_of(Int v) { return each<Int>([&](int i) { return 0u - (v.lane[i] >> 31); }); }
// The products of 16 bits.
inline Int mul_words(Int a, Int b) {
    return each<Int>([&](int i) {
        const uint32_t low = (a.lane[i] & 0xffff) * (b.lane[i] & 0xffff);
        return (low & 0xffff) | (a.lane[i] >> 16) * (b.lane[i] >> 16) << 16;
    });
}
inline Int widened(const int8_t* p) {
    return each<Int>([&](int i) { return uint32_t(int32_t(p[i])); });
}

// Attention.
constexpr int kTileRows = 4;
constexpr int kTileVectors = 2;
inline float highest(Float v) {
    float most = v.lane[0];
    for (int i = 1; i < 4; i++) most = v.lane[i] > most ? v.lane[i] : most;
    return most;
}
// Multiplying by 2^112 moves the exponent, numbers below the normal ones included.
inline Float load_half(const uint16_t* p) {
    return each<Float>([&](int i) {
        const bool finite = (p[i] & 0x7c00) != 0x7c00;
        const uint32_t word = uint32_t(p[i] & 0x7fff) << 13 | (finite ? 0u : 0x70000000u);
        float size;
        memcpy(&size, &word, sizeof size);
        size *= finite ? 5.192296858534828e33f : 1.0f;
        return p[i] & 0x8000 ? -size : size;
    });
}
// To the nearest, and of two to the even one: adding a power of two 2^13 times as large as the last
// bit of a half rounds there.
inline void store_half(uint16_t* p, Float v) {
    for (int i = 0; i < 4; i++) {
        uint32_t word;
        memcpy(&word, &v.lane[i], sizeof word);
        const uint32_t sign = word >> 16 & 0x8000, size = word & 0x7fffffff;
        if (size > 0x7f800000) p[i] = uint16_t(sign | 0x7e00);
        else if (size >= 0x477ff000) p[i] = uint16_t(sign | 0x7c00);
        else if (size < 0x38800000) {
            float number;
            memcpy(&number, &size, sizeof number);
            number += 0.5f;  // whose last bit is the smallest half, 2^-24
            memcpy(&word, &number, sizeof word);
            p[i] = uint16_t(sign | (word - 0x3f000000));
        } else {
            const uint32_t odd = size >> 13 & 1;
            p[i] = uint16_t(sign | ((size - 0x38000000 + 0xfff + odd) >> 13));
        }
    }
}

}  // namespace
