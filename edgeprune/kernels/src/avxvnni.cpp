#include <cpuid.h>

#include "simd_avx2.h"

#include "quant_tiles.h"
#include "row_attention_tiles.h"
#include "tiles.h"

// Older compilers do not know the name: CPUID leaf 7.1, EAX, bit 4.
static bool has_avx_vnni() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c") &&
           __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

EDGEPRUNE_KERNELS(avx_vnni_kernels, "avxvnni", has_avx_vnni, &quant_kernels, &attention_kernels)
