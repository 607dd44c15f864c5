// Multiplies matrices with many vectors, in place of llama.cpp: the work of a prefill.
//
// Knows: which products it takes, their experts, and how threads share the rows. Refuses to know: how rows are
// packed and multiplied; see matmul_panel.h and matmul_kernel.c, on ARM arm_panel.h and arm_matmul_kernel.c.
//
// llama.cpp scales the product of a block for every row and vector on its own, and shuffles lanes to add up
// what lies side by side. Here rows are packed once for all vectors, so that each lane is a row's:
// docs/decisions/0014. Activations are quantized to 8 bits as llama.cpp does it, so results differ by the order
// of sums alone.

#include "matmul.h"

#include "custom_node.h"
#include "matvec.h"
#include "weight_layout.h"

#if HAS_ARM_PRODUCTS
#include "arm_matmul_kernel.h"
#else
#include "matmul_kernel.h"
#endif

#if HAS_OWN_PRODUCTS

#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

// Returns the number of vectors from which on packing pays.
#if HAS_ARM_PRODUCTS
static int64_t fewest_vectors(const struct quant_matrix *w) {
    (void)w;
    return 8;
}
#else
static int64_t fewest_vectors(const struct quant_matrix *w) {
    const bool is_quick = HAS_VNNI && INT_LANES == 16;
    // Then rows, and the vectors, lie as the kernel for few vectors wants them.
    const bool lies_well = w->layout != ROW_BY_ROW && !is_row_type(w->type);
    return !is_quick ? 6 : lies_well ? 96 : 8;
}
#endif

enum {
    CLAIMED_PANELS = 4,  // that a thread takes at once
    SPINS_PER_YIELD = 64
};

// Memory that is kept from node to node, and grows.
struct growing_buffer {
    void *p;
    size_t bytes;
};

// Of one llama.cpp context, which computes one graph at a time.
struct matmul {
    struct custom_node_params params;
    struct growing_buffer vectors;          // of the current node: struct activation_block
    struct growing_buffer entries, starts;  // of its experts, see sort_entries: int32_t, int64_t
    atomic_int n_arrived, barrier_round;
    atomic_llong claimed;
};

// ---------------------------------------------------------------- threads

static void wait_a_moment(void) {
#if HAS_ARM_PRODUCTS
    __asm__ volatile("isb");  // longer than `yield`, which does nothing on most cores
#else
    _mm_pause();
#endif
}

// Waits until all threads are here. The last one resets the claims.
static void wait_for_all_threads(struct matmul *m, int n_threads) {
    const int barrier_round = atomic_load(&m->barrier_round);
    if (atomic_fetch_add(&m->n_arrived, 1) + 1 == n_threads) {
        atomic_store(&m->n_arrived, 0);
        atomic_store(&m->claimed, 0);
        atomic_store(&m->barrier_round, barrier_round + 1);
        return;
    }
    for (int spins = 1; atomic_load(&m->barrier_round) == barrier_round; spins++) {
        if (spins % SPINS_PER_YIELD) {
            wait_a_moment();
        } else {
            sched_yield();
        }
    }
}

static long long next_claim(struct matmul *m) { return atomic_fetch_add(&m->claimed, 1); }

#if !HAS_ARM_PRODUCTS

// Quantizes a vector for panels of this type.
static void quantize_vector(enum ggml_type type, const float *x, int64_t n_blocks, struct activation_block *out) {
    quantize_activations(x, n_blocks, has_superblocks(type), zero_point_of_corrections(type), out);
    for (int64_t b = 0; has_paired_corrections(type) && b < n_blocks; b++) {
        pair_corrections(&out[b]);
    }
}

#endif

// Quantizes this thread's share of the vectors of a node.
static void quantize_share(const struct matmul *m, const struct ggml_tensor *dst, int thread, int n_threads) {
    const struct ggml_tensor *const x = dst->src[1];
    const enum ggml_type type = dst->src[0]->type;
    const int64_t n_blocks = x->ne[0] / QUANT_BLOCK, n = x->ne[1] * x->ne[2];
    struct activation_block *const vectors = m->vectors.p;
    for (int64_t i = n * thread / n_threads; i < n * (thread + 1) / n_threads; i++) {
        const size_t at = (size_t)(i % x->ne[1]) * x->nb[1] + (size_t)(i / x->ne[1]) * x->nb[2];
        const float *const row = (const float *)((const char *)x->data + at);
        quantize_vector(type, row, n_blocks, vectors + i * n_blocks);
    }
}

static int32_t expert_of(const struct ggml_tensor *ids, int64_t entry) {
    const size_t at = (size_t)(entry % ids->ne[0]) * ids->nb[0] + (size_t)(entry / ids->ne[0]) * ids->nb[1];
    return *(const int32_t *)((const char *)ids->data + at);
}

// Sorts the results of a node by expert (a counting sort), each expert's in their order: those of expert e are
// entries[starts[e]] up to entries[starts[e + 1]].
static void sort_entries(const struct matmul *m, const struct ggml_tensor *dst) {
    const struct ggml_tensor *const ids = dst->src[2];
    const int64_t n_experts = dst->src[0]->ne[2], n = ids->ne[0] * ids->ne[1];
    int32_t *const entries = m->entries.p;
    int64_t *const starts = m->starts.p, *const next = starts + 1;  // where the next entry of each goes
    memset(starts, 0, (size_t)(n_experts + 2) * sizeof *starts);
    for (int64_t i = 0; i < n; i++) {
        next[expert_of(ids, i) + 1]++;
    }
    for (int64_t e = 0; e < n_experts; e++) {
        next[e + 1] += next[e];
    }
    for (int64_t i = 0; i < n; i++) {
        entries[next[expert_of(ids, i)]++] = (int32_t)i;
    }
}

// Returns the product of one expert's matrix with its vectors, or of the only matrix with all.
static struct matrix_product product_of(const struct matmul *m, const struct ggml_tensor *dst, int64_t expert) {
    const struct ggml_tensor *const x = dst->src[1], *ids = dst->src[2];
    const int64_t *const starts = m->starts.p;
    return (struct matrix_product){
        .matrix = quant_matrix_of(dst->src[0], expert),
        .vectors = m->vectors.p,
        .out = dst->data,
        .out_stride = (int64_t)(dst->nb[1] / sizeof(float)),
        .entries = ids ? (const int32_t *)m->entries.p + starts[expert] : NULL,
        .n = ids ? starts[expert + 1] - starts[expert] : dst->ne[1],
        .per_vector = ids && x->ne[1] == 1 ? ids->ne[0] : 1,
    };
}

// Tells whether packing rows takes longer than what it saves with so many vectors.
static bool are_few(const struct matrix_product *p) {
    return p->n < fewest_vectors(&p->matrix) && p->matrix.n_blocks <= MAX_WIDTH / QUANT_BLOCK;
}

// Multiplies some rows, with the kernel that is quicker for so many vectors; both give the same bits.
static void multiply(const struct matrix_product *p, int64_t first, int64_t stop) {
    if (are_few(p)) {
        multiply_few(p, first, stop);
    } else {
        multiply_rows(p, first, stop);
    }
}

// Computes a node. llama.cpp calls it on each of its threads.
static void matmul_node(struct ggml_tensor *dst, int thread, int n_threads, void *user) {
    struct matmul *const m = user;
    const bool has_experts = dst->src[2];
    if (thread == 0 && has_experts) {
        sort_entries(m, dst);
    }
    quantize_share(m, dst, thread, n_threads);
    wait_for_all_threads(m, n_threads);
    const int64_t rows = dst->src[0]->ne[1], at_once = CLAIMED_PANELS * PANEL_ROWS,
                  claims = (rows + at_once - 1) / at_once;
    const int64_t n_matrices = has_experts ? dst->src[0]->ne[2] : 1;
    for (int64_t i = next_claim(m); i < claims * n_matrices; i = next_claim(m)) {
        const struct matrix_product p = product_of(m, dst, i / claims);
        const int64_t first = i % claims * at_once;
        multiply(&p, first, rows - first < at_once ? rows : first + at_once);
    }
}

// ---------------------------------------------------------------- taking a node

static bool grow(struct growing_buffer *b, size_t bytes) {
    if (b->bytes < bytes) {
        free(b->p);
        b->p = malloc(bytes);
        b->bytes = b->p ? bytes : 0;
    }
    return b->p;
}

// Tells whether there is memory for a node; gets it if there was none.
static bool has_room(struct matmul *m, const struct ggml_tensor *t) {
    const struct ggml_tensor *const w = t->src[0], *x = t->src[1], *ids = t->src[2];
    const size_t n_blocks = (size_t)(x->ne[0] / QUANT_BLOCK * x->ne[1] * x->ne[2]);
    return grow(&m->vectors, n_blocks * sizeof(struct activation_block)) &&
           (!ids || (grow(&m->entries, (size_t)ggml_nelements(ids) * sizeof(int32_t)) &&
                     grow(&m->starts, (size_t)(w->ne[2] + 2) * sizeof(int64_t))));
}

void take_matmul(struct matmul *m, struct ggml_tensor *t) {
    if (!m || !is_known_product(t)) {
        return;
    }
    if (ggml_nelements(t) > 0 && ggml_is_contiguous(t) && has_room(m, t)) {
        turn_into_custom_node(t, &m->params);
    }
}

struct matmul *new_matmul(void) {
    struct matmul *const m = calloc(1, sizeof *m);
    if (m && !write_custom_node_params(&m->params, matmul_node, m)) {
        free(m);
        return NULL;
    }
    return m;
}

void free_matmul(struct matmul *m) {
    if (m) {
        free(m->vectors.p);
        free(m->entries.p);
        free(m->starts.p);
        free(m);
    }
}

#else

struct matmul *new_matmul(void) { return NULL; }

void free_matmul(struct matmul *m) { (void)m; }

void take_matmul(struct matmul *m, struct ggml_tensor *t) {
    (void)m;
    (void)t;
}

#endif
