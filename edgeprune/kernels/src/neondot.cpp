#include <sys/auxv.h>

#include "simd_neon.h"

#include "quant_tiles.h"
#include "row_attention_tiles.h"
#include "tiles.h"

// HWCAP_ASIMDDP.
static bool has_dot_product() { return getauxval(AT_HWCAP) >> 20 & 1; }

EDGEPRUNE_KERNELS(neon_dot_kernels, "neondot", has_dot_product, &quant_kernels, &attention_kernels)
