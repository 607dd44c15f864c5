#pragma once

#include <ggml.h>
#include <stdbool.h>
#include <stdint.h>

#include "attention_sizes.h"
#include "attention_tile.h"

// An attention node, and how its work is cut. A unit is a stream, some KV heads, and some query rows of each:
// the rows of a KV head are its group of query heads (GQA), token by token. If there are few units and many
// positions, threads share the chunks of each unit.
struct attention_work {
    const struct ggml_tensor *dst, *q, *k, *v, *mask, *sinks;
    float scale, softcap;
    int64_t head_dim, n_tokens, n_heads, heads_per_kv, n_kv_heads, n_positions;
    int64_t kv_heads_per_unit, rows_per_unit;  // rows: of each of its KV heads
    int64_t units_per_stream, units_per_kv_head, n_units;
    int64_t n_chunks;  // of positions
    bool is_shared;    // by chunks
};

struct attention_unit {
    int64_t stream, kv_head, row;  // the first KV head; the first of its rows
    int n_kv_heads, n_rows;        // rows of each KV head; of all KV heads at most ATTENTION_ROWS
};

enum { MAX_SHARED_CHUNKS = 1024 };  // of all units together

// Returns where a chunk of positions starts. A chunk has a softmax of its own, which is then merged into that
// of the chunks before it. Where chunks start follows from the position alone, so that a query has the same bits
// whatever is computed beside it, and on however many threads: 16 chunks of 256 positions, 12 of 1024, and then
// chunks of 4096.
static inline int64_t chunk_start(int64_t i) {
    return i <= 16 ? 256 * i : i <= 28 ? 4096 + (i - 16) * 1024 : 16384 + (i - 28) * 4096;
}

// Cuts the work of a node for n_threads.
struct attention_work cut_attention(const struct ggml_tensor *dst, float scale, float softcap, int n_threads);

struct attention_unit attention_unit_of(const struct attention_work *w, int64_t i);

// Reads the unit's queries, scaled. q: [ATTENTION_ROWS][head_dim].
void read_queries(const struct attention_work *w, const struct attention_unit *u, float (*q)[MAX_HEAD_DIM]);

// Cuts the unit's rows into tiles. tiles: [ATTENTION_ROWS]. Returns their number.
int cut_tiles(const struct attention_work *w, const struct attention_unit *u, struct tile *tiles);

static inline int n_rows_of(const struct attention_unit *u) { return u->n_kv_heads * u->n_rows; }

// Returns the token and the query head of row i of all the unit's rows.
static inline int64_t token_of(const struct attention_work *w, const struct attention_unit *u, int i) {
    return (u->row + i % u->n_rows) / w->heads_per_kv;
}

static inline int64_t head_of(const struct attention_work *w, const struct attention_unit *u, int i) {
    return (u->kv_head + i / u->n_rows) * w->heads_per_kv + (u->row + i % u->n_rows) % w->heads_per_kv;
}

// Returns row i's mask, float16 [positions], from position `first` on; NULL if there is none.
static inline const uint16_t *mask_of(const struct attention_work *w, const struct attention_unit *u, int i,
                                      int64_t first) {
    const struct ggml_tensor *m = w->mask;
    if (!m) {
        return NULL;
    }
    const size_t head = (size_t)(head_of(w, u, i) % m->ne[2]), stream = (size_t)(u->stream % m->ne[3]);
    return (const uint16_t *)((const char *)m->data + (size_t)token_of(w, u, i) * m->nb[1] + head * m->nb[2] +
                              stream * m->nb[3]) +
           first;
}

// Returns where row i's result goes: [head_dim].
static inline float *output_of(const struct attention_work *w, const struct attention_unit *u, int i) {
    const int64_t row = (u->stream * w->n_tokens + token_of(w, u, i)) * w->n_heads + head_of(w, u, i);
    return (float *)((char *)w->dst->data + (size_t)row * w->dst->nb[1]);
}
