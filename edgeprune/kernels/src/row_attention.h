// Attention whose rows do not depend on each other: what a call works on, and the functions that an
// instruction set fills for it.
//
// A row is a query of one token and one head. Its order of summation is fixed: a score is a chain of
// products over the head's numbers; keys come in blocks of kKeys that begin at multiples of kKeys; a
// block's maximum rescales what is summed so far; a result is a chain over the keys in order. So a
// row has the same bits whatever comes with it, and every set with a fused multiply-add gives them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgeprune {

constexpr int64_t kKeys = 64;              // keys in a block
constexpr int64_t kAttentionRows = 96;     // rows of a task, whose data stay in the L2 cache
constexpr int64_t kMostHeadSize = 1024;

enum class Cached { kFloat32, kFloat16, kInt8 };

// Where keys or values are read: [sequences, tokens, heads, head size] in any order of the first three.
struct Source {
    const void* data;
    const float* scales;                   // int8 only: [sequences, heads, tokens]
    int64_t sequence, token, head;         // steps, in numbers
};

// Keys or values [sequences, key heads, room, head size], and their scales without the last dimension.
struct Cache {
    void* data;
    float* scales;
};

struct Past {
    const void* data;
    const float* scales;
};

struct AttentionJob {
    int64_t sequences, tokens;             // new tokens of each sequence
    int64_t heads, key_heads, head_size;
    const float *query, *key, *value;      // of the new tokens
    int64_t query_step, key_step;          // numbers from token to token
    int64_t turned;                        // a head's first numbers that are turned by their position
    const float *cosines, *sines;          // [positions, turned / 2]
    const int64_t *past, *total;           // [sequences]: tokens before the new ones, and with them
    Cached type;                           // of what is read
    Source keys, values;
    Cache new_keys, new_values;            // written, with `room` tokens; without data: nothing is
    int64_t room;
    bool copies;                           // the past is elsewhere
    Past old_keys, old_values;
    int64_t old_room;
    bool causal;
    int64_t window;                        // tokens that a row sees, its own included, or -1 for all
    float factor;                          // of the scores, which are powers of two ...
    float cap;                             // ... or, if not 0, of their tanh, times cap
    const float* bias;                     // added to the scores, or null
    int64_t bias_sequence, bias_head, bias_token;  // steps; 0 for what all share
    float* context;                        // [sequences, tokens, heads, head size]
};

struct AttentionKernels {
    // Writes a sequence's new keys and values of a head.
    void (*write)(const AttentionJob&, int64_t sequence, int64_t head);
    // Bytes that attend works in.
    size_t (*scratch)(const AttentionJob&);
    // Fills the context of rows [first, first + count) of a key head: row r is new token r / group and
    // the group's query head r % group. At most kAttentionRows.
    void (*attend)(const AttentionJob&, int64_t sequence, int64_t head, int64_t first, int64_t count,
                   void* scratch);
};

}  // namespace edgeprune
