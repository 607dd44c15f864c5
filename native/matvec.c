// Multiplies matrices with few vectors, in place of llama.cpp: the work of decoding.
//
// Knows: which products it takes, and how threads share their rows. Refuses to know: how a row is multiplied;
// see matvec_interleaved.h and matvec_row_major.h.
//
// llama.cpp repacks matrices in groups of eight rows, and a core that computes with them asks memory too late,
// so it computes when it should wait for memory alone. Here shuffling is left to the end, and memory is asked
// ahead: docs/decisions/0013. Activations are quantized to 8 bits as llama.cpp does it, so results differ by
// the order of sums alone.

#include "matvec.h"

#include <stdlib.h>

#include "custom_node.h"
#include "weight_layout.h"

#if HAS_PRODUCTS

#include <stdatomic.h>
#include <stddef.h>

#include "activations.h"
#include "matvec_interleaved.h"
#include "matvec_row_major.h"

enum {
    MAX_VECTORS_ROW_MAJOR = 5,
    LEAST_CLAIM = 262144,  // bytes that a thread takes at once, if there are as many
    MAX_WIDTH = 32768,     // of a matrix: a vector is quantized on the stack
    Q4_0_ZERO_POINT = 8    // Q4_K and Q8_0 do not look at the corrections
};

// Of activations on the stack: matvec_q6_k loads 64 bytes at once, which must not cross cache lines.
#define CACHE_ALIGNED __attribute__((aligned(64)))

// Of one llama.cpp context, which computes one node at a time.
struct matvec {
    struct custom_node_params params;
    atomic_llong claimed;  // groups of rows of the current node
    atomic_int done;       // threads that left it
};

// ---------------------------------------------------------------- computing

// Multiplies groups of eight rows, from `first` up to `stop`, of a matrix like w with n vectors.
// vectors: [n][n_blocks]. out: [n][all rows].
INLINE void multiply_groups(const int n, const struct ggml_tensor *w, const char *matrix,
                            const struct activation_block *const *vectors, float *const *out, int64_t first,
                            int64_t stop) {
    const int64_t n_blocks = w->ne[0] / QUANT_BLOCK, n_super = n_blocks / SUPERBLOCK;
    const bool is_group = w->type == GGML_TYPE_Q4_0 || w->type == GGML_TYPE_Q4_K;
    const int64_t step = is_group ? ROW_GROUP : 1;
    for (int64_t row = first * ROW_GROUP; row < stop * ROW_GROUP; row += step) {
        float *to[MAX_VECTORS];
        for (int v = 0; v < n; v++) {
            to[v] = out[v] + row;
        }
        const char *const from = matrix + (size_t)row * w->nb[1];
        switch (w->type) {
            case GGML_TYPE_Q4_0: matvec_q4_0(n, (const void *)from, vectors, n_blocks, to); break;
            case GGML_TYPE_Q4_K: matvec_q4_k(n, (const void *)from, vectors, n_super, to); break;
            case GGML_TYPE_Q6_K: matvec_q6_k(n, (const void *)from, vectors, n_super, to); break;
            default: matvec_q8_0(n, (const void *)from, vectors, n_blocks, to);
        }
    }
}

// Quantizes vector i of x for a matrix like w.
static void quantize_row(const struct ggml_tensor *w, const struct ggml_tensor *x, int64_t i,
                         struct activation_block *out) {
    const float *const row = (const float *)((const char *)x->data + (size_t)i * x->nb[1]);
    const int64_t n_blocks = w->ne[0] / QUANT_BLOCK;
    const bool is_q6_k = w->type == GGML_TYPE_Q6_K;
    const int32_t zero_point = is_q6_k ? Q6_K_ZERO_POINT : Q4_0_ZERO_POINT;
    quantize_activations(row, n_blocks, has_superblocks(w->type), zero_point, out);
    if (is_q6_k) {
        pack_for_q6_k(out, n_blocks);
    }
}

// Groups of rows, counted through all matrices of a node.
struct group_range {
    int64_t first, stop;
};

// Claims what a thread computes next of n groups of rows: many at first and ever fewer, so that unlike cores,
// and cores that others use as well, end at the same time. Returns false if nothing is left.
static bool claim_groups(struct matvec *m, int64_t n, size_t group_bytes, int n_threads,
                         struct group_range *out) {
    const int64_t least = group_bytes < LEAST_CLAIM ? (int64_t)(LEAST_CLAIM / group_bytes) : 1;
    long long first = atomic_load(&m->claimed);
    int64_t stop;
    do {
        const int64_t left = n - first, some = n_threads > 1 ? left * 3 / (4 * n_threads) : left;
        const int64_t wanted = some > least ? some : least;
        stop = first + (wanted < left ? wanted : left);
    } while (!atomic_compare_exchange_weak(&m->claimed, &first, stop));
    *out = (struct group_range){first, stop};
    return first < stop;
}

// The last thread resets the claims for the next node, which llama.cpp lets nobody begin before all have left.
static void leave(struct matvec *m, int n_threads) {
    if (atomic_fetch_add(&m->done, 1) + 1 == n_threads) {
        atomic_store(&m->claimed, 0);
        atomic_store(&m->done, 0);
    }
}

// Multiplies a matrix with few vectors.
static void multiply_all(struct matvec *m, struct ggml_tensor *dst, int n_threads) {
    const struct ggml_tensor *const w = dst->src[0], *x = dst->src[1];
    const int64_t n_blocks = w->ne[0] / QUANT_BLOCK, n_groups = w->ne[1] / ROW_GROUP, n = x->ne[1];
    struct activation_block blocks[n * n_blocks] CACHE_ALIGNED;
    const struct activation_block *vectors[MAX_VECTORS];
    float *out[MAX_VECTORS];
    for (int64_t i = 0; i < n; i++) {
        quantize_row(w, x, i, blocks + i * n_blocks);
        vectors[i] = blocks + i * n_blocks;
        out[i] = (float *)((char *)dst->data + (size_t)i * dst->nb[1]);
    }
    struct group_range range;
    while (claim_groups(m, n_groups, ROW_GROUP * w->nb[1], n_threads, &range)) {
#define CASE(number)                                                                    \
    case number:                                                                        \
        if (number <= MAX_VECTORS) {                                                    \
            multiply_groups(number, w, w->data, vectors, out, range.first, range.stop); \
        }                                                                               \
        break
        switch (n) {  // known to the compiler
            ONE_TO_EIGHT(CASE);
        }
#undef CASE
    }
}

// The same with one vector. Not inlined: among the experts' loops its constants would not stay in registers.
static __attribute__((noinline)) void multiply_groups_with_one(const struct ggml_tensor *w, const char *matrix,
                                                               const struct activation_block *vector,
                                                               float *out, int64_t first, int64_t stop) {
    multiply_groups(1, w, matrix, &vector, &out, first, stop);
}

// Multiplies the matrices of some experts, each with a vector of one token.
static void multiply_experts(struct matvec *m, struct ggml_tensor *dst, int n_threads) {
    const struct ggml_tensor *const w = dst->src[0], *x = dst->src[1], *ids = dst->src[2];
    const int64_t n_blocks = w->ne[0] / QUANT_BLOCK, n_groups = w->ne[1] / ROW_GROUP;
    struct activation_block blocks[n_blocks] CACHE_ALIGNED;
    int64_t quantized = -1;
    struct group_range range;
    while (claim_groups(m, n_groups * ids->ne[0], ROW_GROUP * w->nb[1], n_threads, &range)) {
        for (int64_t i = range.first; i < range.stop;) {
            const int64_t expert = i / n_groups, begin = i % n_groups, left = range.stop - i;
            const int64_t end = left < n_groups - begin ? begin + left : n_groups;
            const int32_t id = *(const int32_t *)((const char *)ids->data + (size_t)expert * ids->nb[0]);
            if (quantized != expert % x->ne[1]) {
                quantized = expert % x->ne[1];
                quantize_row(w, x, quantized, blocks);
            }
            float *const out = (float *)((char *)dst->data + (size_t)expert * dst->nb[1]);
            multiply_groups_with_one(w, (const char *)w->data + (size_t)id * w->nb[2], blocks, out, begin, end);
            i += end - begin;
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
    leave(m, n_threads);
}

// ---------------------------------------------------------------- taking a node

void take_matvec(struct matvec *m, struct ggml_tensor *t) {
    if (!m || !is_known_product(t)) {
        return;
    }
    const struct ggml_tensor *const w = t->src[0], *x = t->src[1];
    const int most = is_row_major(w) ? MAX_VECTORS_ROW_MAJOR : MAX_VECTORS;
    const bool few = t->op == GGML_OP_MUL_MAT_ID ? x->ne[2] == 1 : x->ne[1] <= most;
    if (few && x->ne[1] > 0 && w->ne[0] <= MAX_WIDTH && w->ne[1] % ROW_GROUP == 0) {
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
