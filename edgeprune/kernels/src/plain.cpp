#include "simd_plain.h"

#include "quant_tiles.h"
#include "row_attention_tiles.h"
#include "tiles.h"

static bool always() { return true; }

EDGEPRUNE_KERNELS(plain_kernels, "plain", always, &quant_kernels, &attention_kernels)
