// Multiplies matrices with few vectors, in place of llama.cpp: the work of decoding.
//
// Knows: which products it takes, and how threads share their rows. Refuses to know: how a row is multiplied;
// see matvec_interleaved.h, matvec_q2_k.h, matvec_blocks.h and matvec_superblocks.h, on ARM arm_matvec.h.
//
// llama.cpp repacks matrices in groups of eight rows, and a core that computes with them asks memory too late,
// so it computes when it should wait for memory alone. Here shuffling is left to the end, and memory is asked
// ahead: docs/decisions/0013. Activations are quantized to 8 bits as llama.cpp does it, so results differ by
// the order of sums alone.

#include "matvec.h"

#include <stdlib.h>

#include "custom_node.h"
#include "matrix_product.h"
#include "weight_layout.h"

#if HAS_OWN_PRODUCTS

#include <stddef.h>

#include "activations.h"
#include "claims.h"
#if HAS_ARM_PRODUCTS
#include "arm_matvec.h"
#else
#include "matmul_panel.h"
#include "matvec_interleaved.h"
#include "matvec_q2_k.h"
#include "matvec_blocks.h"
#include "matvec_superblocks.h"
#endif

enum {
    MAX_VECTORS_ROW_MAJOR = MAX_VECTORS < 5 ? MAX_VECTORS : 5,
    PART_ROWS = 16  // that a thread takes at least: a multiple of rows_at_once
};

// Of activations on the stack: superblocks are loaded 64 bytes at once, which must not cross cache lines.
#define CACHE_ALIGNED __attribute__((aligned(64)))

// Of one llama.cpp context, which computes one node at a time.
struct matvec {
    struct custom_node_params params;
    struct claims claims;  // parts of PART_ROWS rows, counted through all matrices of a node
};

// ---------------------------------------------------------------- computing

#if HAS_PRODUCTS

// Returns how many rows of a matrix are multiplied at once.
static int64_t rows_at_once(const struct quant_matrix *w) {
    return w->layout != ROW_BY_ROW && is_nibble_type(w->type) ? SET_ROWS : ROW_GROUP;
}

// Multiplies n_rows interleaved rows, rows_at_once at most, with n vectors. vectors: [n][n_blocks]. out: [n][n_rows].
INLINE void multiply_interleaved(const int n, enum ggml_type type, const void *from, int64_t n_rows,
                                 const struct activation_block *const *vectors, int64_t n_blocks,
                                 float *const *out) {
#define CASE(type) \
    case type: matvec_nibbles(type, n, from, n_rows, vectors, n_blocks, out); break
    switch (type) {
        EACH_NIBBLE_TYPE(CASE);
        case GGML_TYPE_Q4_K: matvec_q4_k(n, from, vectors, n_blocks / SUPERBLOCK, out); break;
        case GGML_TYPE_Q2_K: matvec_q2_k(n, from, vectors, n_blocks / SUPERBLOCK, out); break;
        default: break;
    }
#undef CASE
}

// The same of rows that lie one after the other, as w says.
INLINE void multiply_row_major(const int n, const struct quant_matrix *w, const char *from, int64_t n_rows,
                               const struct activation_block *const *vectors, float *const *out) {
    const int64_t n_blocks = w->n_blocks, n_super = n_blocks / SUPERBLOCK;
#define CASE(type) \
    case type: matvec_superblocks(type, n, from, w->row_bytes, n_rows, vectors, n_super, out); break
#define BLOCK_CASE(type) \
    case type: matvec_blocks(type, n, from, w->row_bytes, n_rows, vectors, n_blocks, out); break
    switch (w->type) {
        EACH_ROW_TYPE(CASE);
        EACH_BLOCK_TYPE(BLOCK_CASE);
        default: break;
    }
#undef CASE
#undef BLOCK_CASE
}

// Multiplies rows, from `first` up to `stop`, of a matrix with n vectors. vectors: [n][n_blocks]. out:
// [n][all rows].
INLINE void multiply_some(const int n, const struct quant_matrix *w,
                          const struct activation_block *const *vectors, float *const *out, int64_t first,
                          int64_t stop) {
    const int64_t step = rows_at_once(w);
    for (int64_t row = first; row < stop; row += step) {
        const int64_t n_rows = stop - row < step ? stop - row : step;
        float *to[MAX_VECTORS];
        for (int v = 0; v < n; v++) {
            to[v] = out[v] + row;
        }
        const char *const from = w->data + (size_t)row * w->row_bytes;
        if (w->layout != ROW_BY_ROW) {
            multiply_interleaved(n, w->type, from, n_rows, vectors, w->n_blocks, to);
        } else {
            multiply_row_major(n, w, from, n_rows, vectors, to);
        }
    }
}

// Quantizes a vector for a matrix of this type.
static void quantize_vector(enum ggml_type type, const float *x, int64_t n_blocks, struct activation_block *out) {
    const bool is_row = is_row_type(type);
    const int32_t zero_point = is_row ? 1 : zero_point_of_corrections(type);
    quantize_activations(x, n_blocks, has_superblocks(type), zero_point, out);
    if (is_row) {
        pack_superblocks(out, n_blocks);
    }
}

#else

static void multiply_some(int n, const struct quant_matrix *w, const struct activation_block *const *vectors,
                          float *const *out, int64_t first, int64_t stop) {
    multiply_arm(n, w, vectors, out, first, stop);
}

#endif

// Quantizes vector i of x for a matrix like w.
static void quantize_row(const struct ggml_tensor *w, const struct ggml_tensor *x, int64_t i,
                         struct activation_block *out) {
    const float *const row = (const float *)((const char *)x->data + (size_t)i * x->nb[1]);
    quantize_vector(w->type, row, w->ne[0] / QUANT_BLOCK, out);
}

// Multiplies rows with n vectors, n known to the compiler.
static void multiply_with(int64_t n, const struct quant_matrix *w,
                          const struct activation_block *const *vectors, float *const *out, int64_t first,
                          int64_t stop) {
#define CASE(number)                                             \
    case number:                                                 \
        if (number <= MAX_VECTORS) {                             \
            multiply_some(number, w, vectors, out, first, stop); \
        }                                                        \
        break
    switch (n) {
        ONE_TO_EIGHT(CASE);
    }
#undef CASE
}

static int64_t n_parts(const struct ggml_tensor *w) { return (w->ne[1] + PART_ROWS - 1) / PART_ROWS; }

static int64_t end_of_part(const struct ggml_tensor *w, int64_t part) {
    return part * PART_ROWS < w->ne[1] ? part * PART_ROWS : w->ne[1];
}

// Multiplies a matrix with few vectors.
static void multiply_all(struct matvec *m, struct ggml_tensor *dst, int n_threads) {
    const struct ggml_tensor *const w = dst->src[0], *x = dst->src[1];
    const int64_t n_blocks = w->ne[0] / QUANT_BLOCK, n = x->ne[1];
    struct activation_block blocks[n * n_blocks] CACHE_ALIGNED;
    const struct activation_block *vectors[MAX_VECTORS];
    float *out[MAX_VECTORS];
    for (int64_t i = 0; i < n; i++) {
        quantize_row(w, x, i, blocks + i * n_blocks);
        vectors[i] = blocks + i * n_blocks;
        out[i] = (float *)((char *)dst->data + (size_t)i * dst->nb[1]);
    }
    const struct quant_matrix matrix = quant_matrix_of(w, 0);
    struct claimed_range range;
    while (claim_parts(&m->claims, n_parts(w), PART_ROWS * w->nb[1], n_threads, &range)) {
        multiply_with(n, &matrix, vectors, out, range.first * PART_ROWS, end_of_part(w, range.stop));
    }
}

// The same with one vector. Not inlined: among the experts' loops its constants would not stay in registers.
static __attribute__((noinline)) void multiply_with_one(const struct quant_matrix *w,
                                                        const struct activation_block *vector, float *out,
                                                        int64_t first, int64_t stop) {
    multiply_some(1, w, &vector, &out, first, stop);
}

// Multiplies the matrices of some experts, each with a vector of one token.
static void multiply_experts(struct matvec *m, struct ggml_tensor *dst, int n_threads) {
    const struct ggml_tensor *const w = dst->src[0], *x = dst->src[1], *ids = dst->src[2];
    const int64_t n_blocks = w->ne[0] / QUANT_BLOCK, n = n_parts(w);
    struct activation_block blocks[n_blocks] CACHE_ALIGNED;
    int64_t quantized = -1;
    struct claimed_range range;
    while (claim_parts(&m->claims, n * ids->ne[0], PART_ROWS * w->nb[1], n_threads, &range)) {
        for (int64_t i = range.first; i < range.stop;) {
            const int64_t expert = i / n, begin = i % n, left = range.stop - i;
            const int64_t end = left < n - begin ? begin + left : n;
            const int32_t id = *(const int32_t *)((const char *)ids->data + (size_t)expert * ids->nb[0]);
            if (quantized != expert % x->ne[1]) {
                quantized = expert % x->ne[1];
                quantize_row(w, x, quantized, blocks);
            }
            float *const out = (float *)((char *)dst->data + (size_t)expert * dst->nb[1]);
            const struct quant_matrix matrix = quant_matrix_of(w, id);
            multiply_with_one(&matrix, blocks, out, begin * PART_ROWS, end_of_part(w, end));
            i += end - begin;
        }
    }
}

#if HAS_PRODUCTS

// Packs a copy of a vector that was quantized for panels of a row type, and returns it.
static const struct activation_block *packed_copy(enum ggml_type type, const struct activation_block *vector,
                                                  int64_t n_blocks, struct activation_block *own) {
    const int32_t zero_point = zero_point_of_corrections(type);
    memcpy(own, vector, (size_t)n_blocks * sizeof *own);
    for (int64_t b = 0; b < n_blocks; b++) {
        int32_t *const of = own[b].corrections;
        if (has_paired_corrections(type)) {
            of[0] = (int16_t)of[0];
        }
        for (int half = 0; half < 2 && zero_point; half++) {
            of[half] /= zero_point;
        }
    }
    pack_superblocks(own, n_blocks);
    return own;
}

static bool needs_packed_copy(enum ggml_type type) { return is_row_type(type); }

#else

// There is one form for few vectors and for many.
static bool needs_packed_copy(enum ggml_type type) {
    (void)type;
    return false;
}

static const struct activation_block *packed_copy(enum ggml_type type, const struct activation_block *vector,
                                                  int64_t n_blocks, struct activation_block *own) {
    (void)type;
    (void)n_blocks;
    (void)own;
    return vector;
}

#endif

// Multiplies rows with those vectors of a product that come from `begin` on, n of them.
static void multiply_part(const struct matrix_product *p, int64_t begin, int64_t n, int64_t first, int64_t stop) {
    struct activation_block blocks[n * p->matrix.n_blocks] CACHE_ALIGNED;
    const struct activation_block *vectors[MAX_VECTORS];
    float *out[MAX_VECTORS];
    for (int64_t i = 0; i < n; i++) {
        vectors[i] = vector_of(p, begin + i);
        out[i] = result_of(p, begin + i);
        if (needs_packed_copy(p->matrix.type)) {
            struct activation_block *const own = blocks + i * p->matrix.n_blocks;
            vectors[i] = packed_copy(p->matrix.type, vectors[i], p->matrix.n_blocks, own);
        }
    }
    multiply_with(n, &p->matrix, vectors, out, first, stop);
}

void multiply_few(const struct matrix_product *p, int64_t first, int64_t stop) {
    const int64_t n_parts = (p->n + MAX_VECTORS - 1) / MAX_VECTORS;
    const int64_t near = n_parts > 1 ? PART_ROWS : stop - first;  // rows that all parts go through in turn
    for (int64_t row = first; row < stop; row += near) {
        const int64_t last = stop - row < near ? stop : row + near;
        for (int64_t part = 0; part < n_parts; part++) {
            const int64_t begin = p->n * part / n_parts, end = p->n * (part + 1) / n_parts;
            multiply_part(p, begin, end - begin, row, last);
        }
    }
}

// Computes a node. llama.cpp calls it on each of its threads.
static void matvec_node(struct ggml_tensor *dst, int thread, int n_threads, void *user) {
    (void)thread;
    struct matvec *const m = user;
    if (dst->src[2]) {
        multiply_experts(m, dst, n_threads);
    } else {
        multiply_all(m, dst, n_threads);
    }
    leave_claims(&m->claims, n_threads);
}

// ---------------------------------------------------------------- taking a node

void take_matvec(struct matvec *m, struct ggml_tensor *t) {
    if (!m || !is_known_product(t)) {
        return;
    }
    const struct ggml_tensor *const w = t->src[0], *x = t->src[1];
    const int most = is_row_major(w) ? MAX_VECTORS_ROW_MAJOR : MAX_VECTORS;
    const bool few = t->op == GGML_OP_MUL_MAT_ID ? x->ne[2] == 1 : x->ne[1] <= most;
    if (few && x->ne[1] > 0 && w->ne[0] <= MAX_WIDTH) {
        turn_into_custom_node(t, &m->params);
    }
}

struct matvec *new_matvec(void) {
    struct matvec *const m = calloc(1, sizeof *m);
    if (m && !write_custom_node_params(&m->params, matvec_node, m)) {
        free(m);
        return NULL;
    }
    return m;
}

#else

struct matvec *new_matvec(void) { return NULL; }

void take_matvec(struct matvec *m, struct ggml_tensor *t) {
    (void)m;
    (void)t;
}

#endif

void free_matvec(struct matvec *m) { free(m); }
