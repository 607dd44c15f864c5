// Multiplies matrices of floats (F32, F16, BF16) with vectors, in place of llama.cpp.
//
// Knows: which products it takes, and how a tile of rows and vectors stays in registers. Refuses to know:
// quantized weights.
//
// llama.cpp has one kernel for a single vector and others for more, which sum in another order. Here each sum
// has a register of its own, over the whole row, whatever else is computed: a vector has the same bits alone
// and among others (docs/decisions/0023).

#include "float_product.h"

#include <stdlib.h>

#include "custom_node.h"
#include "product_simd.h"

#if HAS_PRODUCTS

#include <ggml-backend.h>
#include <stddef.h>
#include <string.h>

#include "claims.h"
#include "float_simd.h"

// Of a tile: what fits the registers.
#if defined(__AVX512F__)
enum { FLOAT_TILE_VECTORS = 6 };
#else
enum { FLOAT_TILE_VECTORS = 3 };
#endif

enum {
    FLOAT_TILE_ROWS = 4,
    FLOAT_PART_ROWS = 16,       // that go through all vectors: they stay in the first cache
    FLOAT_PREFETCH_AHEAD = 1152  // bytes of each row of a tile
};

// Of one llama.cpp context, which computes one node at a time.
struct float_product {
    struct custom_node_params params;
    struct claims claims;
};

// ---------------------------------------------------------------- computing

INLINE float_lanes load_weights(const enum ggml_type type, const char *row, int64_t d) {
    switch (type) {
        case GGML_TYPE_F16: return load_halves((const uint16_t *)row + d);
        case GGML_TYPE_BF16: return load_bfloats((const uint16_t *)row + d);
        default: return load_floats((const float *)row + d);
    }
}

INLINE int64_t bytes_of(const enum ggml_type type, int64_t n) { return n * (type == GGML_TYPE_F32 ? 4 : 2); }

// Loads the n weights from d on: all that a register holds, or the last ones of a row, followed by zeros.
INLINE float_lanes load_n_weights(const enum ggml_type type, const char *row, int64_t d, const int64_t n) {
    if (n >= FLOAT_LANES) {
        return load_weights(type, row, d);
    }
    char part[FLOAT_LANES * sizeof(float)] = {0};
    memcpy(part, row + bytes_of(type, d), (size_t)bytes_of(type, n));
    return load_weights(type, part, 0);
}

typedef float_lanes tile_sums[FLOAT_TILE_VECTORS][FLOAT_TILE_ROWS];

// Adds the products of the n_columns from d on.
INLINE void add_columns(const enum ggml_type type, const int n, const char *const *rows, const float *const *x,
                        int64_t d, const int64_t n_columns, tile_sums sum) {
    float_lanes vector[FLOAT_TILE_VECTORS];
    for (int i = 0; i < n; i++) {
        vector[i] = load_n_weights(GGML_TYPE_F32, (const char *)x[i], d, n_columns);
    }
    for (int r = 0; r < FLOAT_TILE_ROWS; r++) {
        const float_lanes weights = load_n_weights(type, rows[r], d, n_columns);
        __builtin_prefetch(rows[r] + bytes_of(type, d) + FLOAT_PREFETCH_AHEAD);
        for (int i = 0; i < n; i++) {
            sum[i][r] = fused_lanes(weights, vector[i], sum[i][r]);
        }
    }
}

// Multiplies a tile of rows with n vectors. x: [n][width]. out: [n][FLOAT_TILE_ROWS].
INLINE void multiply_floats(const enum ggml_type type, const int n, const char *const *rows,
                            const float *const *x, int64_t width, four_floats *out) {
    tile_sums sum = {0};
    const int64_t rest = width % FLOAT_LANES, stop = width - rest;
    for (int64_t d = 0; d < stop; d += FLOAT_LANES) {
        add_columns(type, n, rows, x, d, FLOAT_LANES, sum);
    }
    if (rest) {
        add_columns(type, n, rows, x, stop, rest, sum);
    }
    for (int i = 0; i < n; i++) {
        out[i] = four_sums(sum[i]);
    }
}

// The same, with the type known to the compiler.
INLINE void multiply_floats_of(enum ggml_type type, const int n, const char *const *rows, const float *const *x,
                               int64_t width, four_floats *out) {
    switch (type) {
        case GGML_TYPE_F16: multiply_floats(GGML_TYPE_F16, n, rows, x, width, out); break;
        case GGML_TYPE_BF16: multiply_floats(GGML_TYPE_BF16, n, rows, x, width, out); break;
        default: multiply_floats(GGML_TYPE_F32, n, rows, x, width, out);
    }
}

// The same, with n known to the compiler.
static void multiply_tile_of(enum ggml_type type, int n, const char *const *rows, const float *const *x,
                             int64_t width, four_floats *out) {
#define CASE(number)                                               \
    case number:                                                   \
        if (number <= FLOAT_TILE_VECTORS) {                        \
            multiply_floats_of(type, number, rows, x, width, out); \
        }                                                          \
        break
    switch (n) {
        CASE(1);
        CASE(2);
        CASE(3);
        CASE(4);
        CASE(5);
        CASE(6);
    }
#undef CASE
}

// Multiplies the rows from `first` up to `stop` with the n vectors from `vector` on.
static void multiply_rows_of_floats(struct ggml_tensor *dst, int64_t first, int64_t stop, int64_t vector,
                                    int n) {
    const struct ggml_tensor *const w = dst->src[0], *x = dst->src[1];
    const float *vectors[FLOAT_TILE_VECTORS];
    for (int i = 0; i < n; i++) {
        vectors[i] = (const float *)((const char *)x->data + (size_t)(vector + i) * x->nb[1]);
    }
    for (int64_t row = first; row < stop; row += FLOAT_TILE_ROWS) {
        const int64_t n_rows = stop - row < FLOAT_TILE_ROWS ? stop - row : FLOAT_TILE_ROWS;
        const char *rows[FLOAT_TILE_ROWS];
        four_floats result[FLOAT_TILE_VECTORS];
        for (int r = 0; r < FLOAT_TILE_ROWS; r++) {  // the last row stands for those that lack
            rows[r] = (const char *)w->data + (size_t)(row + (r < n_rows ? r : n_rows - 1)) * w->nb[1];
        }
        multiply_tile_of(w->type, n, rows, vectors, w->ne[0], result);
        for (int i = 0; i < n; i++) {
            float *const out = (float *)((char *)dst->data + (size_t)(vector + i) * dst->nb[1]) + row;
            for (int r = 0; r < n_rows; r++) {
                out[r] = result[i][r];
            }
        }
    }
}

// Computes a node. llama.cpp calls it on each of its threads.
static void float_product_node(struct ggml_tensor *dst, int thread, int n_threads, void *user) {
    (void)thread;
    struct float_product *const f = user;
    const struct ggml_tensor *const w = dst->src[0];
    const int64_t n = dst->ne[1], n_rows = w->ne[1];
    const int64_t n_parts = (n_rows + FLOAT_PART_ROWS - 1) / FLOAT_PART_ROWS;
    struct claimed_range range;
    while (claim_parts(&f->claims, n_parts, FLOAT_PART_ROWS * w->nb[1], n_threads, &range)) {
        for (int64_t part = range.first; part < range.stop; part++) {
            const int64_t first = part * FLOAT_PART_ROWS, left = n_rows - first;
            const int64_t stop = left < FLOAT_PART_ROWS ? n_rows : first + FLOAT_PART_ROWS;
            for (int64_t i = 0; i < n; i += FLOAT_TILE_VECTORS) {
                multiply_rows_of_floats(dst, first, stop, i,
                                        (int)(n - i < FLOAT_TILE_VECTORS ? n - i : FLOAT_TILE_VECTORS));
            }
        }
    }
    leave_claims(&f->claims, n_threads);
}

// ---------------------------------------------------------------- taking a node

static bool is_float_product(const struct ggml_tensor *t) {
    if (t->op != GGML_OP_MUL_MAT) {
        return false;
    }
    const struct ggml_tensor *const w = t->src[0], *x = t->src[1];
    const bool is_float = w->type == GGML_TYPE_F32 || w->type == GGML_TYPE_F16 || w->type == GGML_TYPE_BF16;
    const bool is_in_memory = !w->buffer || ggml_backend_buffer_is_host(w->buffer);
    return is_float && is_in_memory && w->nb[0] == ggml_type_size(w->type) &&
           w->ne[2] == 1 && w->ne[3] == 1 && x->type == GGML_TYPE_F32 &&
           x->nb[0] == sizeof(float) && x->ne[2] == 1 && x->ne[3] == 1 && ggml_nelements(t) > 0;
}

void take_float_product(struct float_product *f, struct ggml_tensor *t) {
    if (f && is_float_product(t)) {
        turn_into_custom_node(t, &f->params);
    }
}

struct float_product *new_float_product(void) {
    struct float_product *const f = calloc(1, sizeof *f);
    if (f && !write_custom_node_params(&f->params, float_product_node, f)) {
        free(f);
        return NULL;
    }
    return f;
}

#else

struct float_product *new_float_product(void) { return NULL; }

void take_float_product(struct float_product *f, struct ggml_tensor *t) {
    (void)f;
    (void)t;
}

#endif

void free_float_product(struct float_product *f) { free(f); }
