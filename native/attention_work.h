#pragma once

#include <ggml.h>
#include <stdint.h>

#include "attention_sizes.h"
#include "attention_tile.h"

// An attention node, and how its work is cut. A unit is a stream, some KV heads, and some query rows of each:
// the rows of a KV head are its group of query heads (GQA), token by token. If there are few units and many
// positions, each unit is split over positions.
struct attention_work {
    const struct ggml_tensor *dst, *q, *k, *v, *mask, *sinks;
    float scale, softcap;
    int64_t head_dim, n_tokens, n_heads, heads_per_kv, n_kv_heads, n_positions;
    int64_t kv_heads_per_unit, rows_per_unit;  // rows: of each of its KV heads
    int64_t units_per_stream, units_per_kv_head, n_units;
    int64_t n_splits;  // over positions, of each unit
};

struct attention_unit {
    int64_t stream, kv_head, row;  // the first KV head; the first of its rows
    int n_kv_heads, n_rows;        // rows of each KV head; of all KV heads at most ATTENTION_ROWS
};

enum { MAX_SPLITS = 256 };  // of all units together

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
