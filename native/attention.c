// Attention over a KV cache in 16-bit floats, in place of llama.cpp's.
//
// Knows: which attention nodes it takes, and the order in which the cache is read. Refuses to know: the cut of
// the work (attention_work.c), the arithmetic of a tile (attention_tile.h) and of the softmax
// (online_softmax.h).
//
// It is flash attention with an online softmax over chunks of positions, whose partial softmaxes are merged;
// threads share the chunks of a long cache as in flash-decoding (split-K over positions). llama.cpp goes
// through the cache query by query, keeps the result in 16-bit floats in memory, and calls e^x for each
// position: 100 ns for a query, a head and a position of 128 numbers on the machine where this was written.
// Here the query rows of a KV head share what is read and converted, results stay in registers, and a block of
// positions is computed at once: docs/decisions/0012. Sums are in float32 throughout.

#include "attention.h"

#include <ggml-backend.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "attention_work.h"
#include "attributes.h"
#include "custom_node.h"
#include "online_softmax.h"

enum {
    FEW_POSITIONS = 8,  // whose values are added before the next KV head's
    MAX_OPS = 8,
    MINUS_INFINITY = 0xfc00  // as a 16-bit float
};

// What a node says in its parameters, of which a model has few kinds.
struct attention_op {
    float scale, max_bias, softcap;    // as llama.cpp lays them out
    struct custom_node_params params;  // of a node that computes it
    struct attention *attention;
};

// Of one llama.cpp context, which computes one graph at a time.
struct attention {
    struct attention_op ops[MAX_OPS];
    int n_ops;
    struct partial_softmax partials[MAX_SHARED_CHUNKS];  // [units][chunks]
    atomic_int n_done[MAX_SHARED_CHUNKS];                // [units] chunks that are computed
    atomic_llong n_claimed;                              // of the current node, by its threads
    atomic_int n_left;                                   // threads that are done with it
};

// ---------------------------------------------------------------- a block of positions

// Returns how many positions of a block there are up to the last that the mask[KV_BLOCK] lets a row see,
// rounded up to FEW_POSITIONS.
static int n_visible(const uint16_t *mask) {
    for (int stop = KV_BLOCK; mask && stop > 0; stop -= FEW_POSITIONS) {
        uint16_t differs = 0;
        for (int p = stop - FEW_POSITIONS; p < stop; p++) {
            differs |= mask[p] ^ MINUS_INFINITY;
        }
        if (differs) {
            return stop;
        }
    }
    return mask ? 0 : KV_BLOCK;
}

// Attends to the block of positions at `first`, with all tiles of a unit. Positions come first and KV heads
// second, as they lie in memory: the processor then foresees what will be read. q: [ATTENTION_ROWS][head_dim].
static void attend_to_block(const struct attention_work *w, const struct attention_unit *u, struct tile *tiles,
                            int n_tiles, const float (*q)[MAX_HEAD_DIM], int64_t first,
                            struct partial_softmax *s) {
    static const float ones[4] = {1, 1, 1, 1};
    float scores[ATTENTION_ROWS][KV_BLOCK], rescale[ATTENTION_ROWS];  // scores become weights
    const uint16_t *masks[ATTENTION_ROWS];
    const int head_dim = (int)w->head_dim, step = u->n_kv_heads > 1 ? FEW_POSITIONS : KV_BLOCK;
    for (struct tile *t = tiles; t < tiles + n_tiles; t++) {
        t->stop = 0;
        for (int r = t->row; r < t->row + t->n_rows; r++) {
            masks[r] = mask_of(w, u, r, first);
            const int n = n_visible(masks[r]);
            t->stop = t->stop > n ? t->stop : n;
        }
    }
    for (int p = 0; p < KV_BLOCK; p += POSITIONS_AT_ONCE) {
        for (const struct tile *t = tiles; t < tiles + n_tiles; t++) {
            if (p < t->stop) {
                score_tile(t, q, head_dim, first, p, scores);
            }
        }
    }
    for (const struct tile *t = tiles; t < tiles + n_tiles; t++) {
        for (int r = t->row; t->stop > 0 && r < t->row + t->n_rows; r++) {
            rescale[r] = online_softmax(scores[r], t->stop, masks[r], w->softcap, &s->m[r], &s->l[r]);
        }
    }
    for (int p = 0; p < KV_BLOCK; p += step) {
        for (const struct tile *t = tiles; t < tiles + n_tiles; t++) {
            if (p < t->stop) {
                const int end = p + step < t->stop ? p + step : t->stop;
                add_tile(t, p ? ones : rescale + t->row, (const float (*)[KV_BLOCK])scores, head_dim, first, p,
                         end, s->acc);
            }
        }
    }
}

// ---------------------------------------------------------------- a unit of work

// Attends to a chunk of positions, from an empty state on.
static void attend_to_chunk(const struct attention_work *w, const struct attention_unit *u, int64_t chunk,
                            struct partial_softmax *s) {
    float q[ATTENTION_ROWS][MAX_HEAD_DIM];
    struct tile tiles[ATTENTION_ROWS];
    const int n_tiles = cut_tiles(w, u, tiles);
    const int64_t end = chunk_start(chunk + 1), stop = end < w->n_positions ? end : w->n_positions;
    read_queries(w, u, q);
    reset_softmax(s, n_rows_of(u), w->head_dim);
    for (int64_t p = chunk_start(chunk); p < stop; p += KV_BLOCK) {
        attend_to_block(w, u, tiles, n_tiles, q, p, s);
    }
}

// Writes the results of a unit whose state has seen all positions.
static void finish_unit(const struct attention_work *w, const struct attention_unit *u,
                        struct partial_softmax *s) {
    const float *const sinks = w->sinks ? w->sinks->data : NULL;  // [heads]
    for (int i = 0; i < n_rows_of(u); i++) {
        if (sinks) {
            add_attention_sink(s, i, sinks[head_of(w, u, i)], w->head_dim);
        }
        write_softmax(s, i, output_of(w, u, i), w->head_dim);
    }
}

// Computes all chunks of a unit.
static void attend_to_all(const struct attention_work *w, const struct attention_unit *u) {
    struct partial_softmax all, next;
    attend_to_chunk(w, u, 0, &all);
    for (int64_t i = 1; i < w->n_chunks; i++) {
        attend_to_chunk(w, u, i, &next);
        merge_softmax(&all, &next, n_rows_of(u), w->head_dim);
    }
    finish_unit(w, u, &all);
}

// Computes one chunk of a unit. The thread that ends last merges all chunks, always in their order, so that
// results do not depend on which thread that is.
static void attend_to_shared(struct attention *a, const struct attention_work *w,
                             const struct attention_unit *u, int64_t unit, int64_t chunk) {
    struct partial_softmax *const partials = a->partials + unit * w->n_chunks;
    attend_to_chunk(w, u, chunk, &partials[chunk]);
    if (atomic_fetch_add(&a->n_done[unit], 1) + 1 < w->n_chunks) {
        return;
    }
    atomic_store(&a->n_done[unit], 0);
    for (int64_t i = 1; i < w->n_chunks; i++) {
        merge_softmax(&partials[0], &partials[i], n_rows_of(u), w->head_dim);
    }
    finish_unit(w, u, &partials[0]);
}

// Computes chunks, the longest first, as long as there are any. The last thread resets the claims.
static void share_chunks(struct attention *a, const struct attention_work *w, int n_threads) {
    const int64_t n = w->n_units * w->n_chunks;
    for (int64_t i = atomic_fetch_add(&a->n_claimed, 1); i < n; i = atomic_fetch_add(&a->n_claimed, 1)) {
        const int64_t unit = i % w->n_units, chunk = w->n_chunks - 1 - i / w->n_units;
        const struct attention_unit u = attention_unit_of(w, unit);
        attend_to_shared(a, w, &u, unit, chunk);
    }
    if (atomic_fetch_add(&a->n_left, 1) + 1 == n_threads) {
        atomic_store(&a->n_claimed, 0);
        atomic_store(&a->n_left, 0);
    }
}

// Computes a thread's share of a node. llama.cpp calls it on each of its threads.
static void attention_node(struct ggml_tensor *dst, int thread, int n_threads, void *user) {
    const struct attention_op *const op = user;
    const struct attention_work w = cut_attention(dst, op->scale, op->softcap, n_threads);
    if (w.is_shared) {
        share_chunks(op->attention, &w, n_threads);
        return;
    }
    for (int64_t i = thread; i < w.n_units; i += n_threads) {
        const struct attention_unit u = attention_unit_of(&w, i);
        attend_to_all(&w, &u);
    }
}

// ---------------------------------------------------------------- taking a node

static bool is_in_memory(const struct ggml_tensor *t) {
    return !t || (t->data && (!t->buffer || ggml_backend_buffer_is_host(t->buffer)));
}

static bool is_kv_cache(const struct ggml_tensor *t, const struct ggml_tensor *q) {
    return t->type == GGML_TYPE_F16 && t->nb[0] == sizeof(uint16_t) && t->ne[0] == q->ne[0] &&
           t->ne[1] % KV_BLOCK == 0 && q->ne[2] % t->ne[2] == 0 && q->ne[3] % t->ne[3] == 0;
}

static bool is_known_attention(const struct ggml_tensor *t, const struct attention_op *op) {
    const struct ggml_tensor *const q = t->src[0], *k = t->src[1], *v = t->src[2], *mask = t->src[3];
    if (!converts_halves() || op->max_bias != 0 || t->type != GGML_TYPE_F32 || !is_in_memory(t)) {
        return false;
    }
    for (int i = 0; i < 5; i++) {
        if (!is_in_memory(t->src[i])) {
            return false;
        }
    }
    return q->type == GGML_TYPE_F32 && q->nb[0] == sizeof(float) && q->ne[0] % HEAD_DIM_GRAIN == 0 &&
           q->ne[0] <= MAX_HEAD_DIM && is_kv_cache(k, q) && is_kv_cache(v, q) && k->ne[2] == v->ne[2] &&
           (!mask || (mask->type == GGML_TYPE_F16 && mask->nb[0] == sizeof(uint16_t)));
}

// Returns the op with a node's parameters, a new one if there is none. NULL: there are too many, or memory is
// short.
static const struct attention_op *op_of(struct attention *a, const struct ggml_tensor *t) {
    for (int i = 0; i < a->n_ops; i++) {
        if (memcmp(&a->ops[i], t->op_params, offsetof(struct attention_op, params)) == 0) {
            return &a->ops[i];
        }
    }
    if (a->n_ops == MAX_OPS) {
        return NULL;
    }
    struct attention_op *const op = &a->ops[a->n_ops];
    memcpy(op, t->op_params, offsetof(struct attention_op, params));
    op->attention = a;
    if (!write_custom_node_params(&op->params, attention_node, op)) {
        return NULL;
    }
    a->n_ops++;
    return op;
}

void take_attention(struct attention *a, struct ggml_tensor *t) {
    if (t->op != GGML_OP_FLASH_ATTN_EXT) {
        return;
    }
    const struct attention_op *const op = op_of(a, t);
    if (op && is_known_attention(t, op)) {
        turn_into_custom_node(t, &op->params);
    }
}

struct attention *new_attention(void) { return calloc(1, sizeof(struct attention)); }

void free_attention(struct attention *a) { free(a); }
