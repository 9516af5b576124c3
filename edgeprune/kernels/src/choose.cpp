// Chooses the instruction set: the processor's best, unless the environment names one.
#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace edgeprune {

const Kernels* const all_kernels[] = {
#if defined(__x86_64__)
    &avx512_vnni_kernels,
    &avx_vnni_kernels,
    &avx2_kernels,
#elif defined(__aarch64__)
    &neon_dot_kernels,
#endif
    &plain_kernels,
    nullptr,
};

const Kernels* choose_kernels() {
    const char* wanted = std::getenv("EDGEPRUNE_KERNELS");
    for (const Kernels* const* kernels = all_kernels; *kernels; kernels++) {
        const bool named = !wanted || !*wanted || !std::strcmp(wanted, (*kernels)->name);
        if (named && (*kernels)->supported()) return *kernels;
    }
    return nullptr;
}

}  // namespace edgeprune

// For `edgeprune inspect --system`: the chosen set's name, or null; the name of a set of this
// architecture by its index; and whether the processor has a set.
extern "C" __attribute__((visibility("default"))) const char* edgeprune_chosen() {
    const edgeprune::Kernels* chosen = edgeprune::choose_kernels();
    return chosen ? chosen->name : nullptr;
}

extern "C" __attribute__((visibility("default"))) const char* edgeprune_set(int place) {
    const edgeprune::Kernels* const* kernels = edgeprune::all_kernels;
    while (place-- > 0 && *kernels) kernels++;
    return *kernels ? (*kernels)->name : nullptr;
}

extern "C" __attribute__((visibility("default"))) int edgeprune_supports(const char* name) {
    for (const edgeprune::Kernels* const* kernels = edgeprune::all_kernels; *kernels; kernels++)
        if (!std::strcmp(name, (*kernels)->name)) return (*kernels)->supported();
    return 0;
}
