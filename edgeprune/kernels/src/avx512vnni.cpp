#include "simd_avx512.h"

#include "quant_tiles.h"
#include "row_attention_tiles.h"
#include "tiles.h"

static bool has_avx512_vnni() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}

EDGEPRUNE_KERNELS(avx512_vnni_kernels, "avx512vnni", has_avx512_vnni, &quant_kernels, &attention_kernels)
