#include "simd_avx2.h"

#include "quant_tiles.h"
#include "row_attention_tiles.h"
#include "tiles.h"

static bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
}

EDGEPRUNE_KERNELS(avx2_kernels, "avx2", has_avx2, &quant_kernels, &attention_kernels)
