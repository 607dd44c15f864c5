// Matrices times many vectors, in place of llama.cpp's: what a prompt is made of.
//
// A block's product is a whole number, which two scales make a part of a result. llama.cpp does that for
// every row and vector on its own, and shuffles lanes to add up what lies beside each other. Here the blocks
// of sixteen rows are laid out anew, once for all vectors, so that each lane is a row's: the products of
// sixteen rows and a vector are scaled at once, and nothing is shuffled: docs/decisions/0014. Activations are
// rounded to 8 bits as llama.cpp rounds them, so results differ by the order of sums alone.

#include "matmul.h"

#include "custom_node.h"
#include "products.h"

#if HAS_PRODUCTS

#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

// Vectors that share what is read: what fits the registers.
#if defined(__AVX512VNNI__)
enum { TILE = 8, WIDE_TILE = 8 };
#elif HAS_VNNI
enum { TILE = 3, WIDE_TILE = 3 };
#else
enum { TILE = 3, WIDE_TILE = 2 };
#endif

enum {
    QUADS = 8,  // of a block
    ROWS = 16,  // that are laid out together
    REGISTERS = ROWS / LANES,
    FEWEST = 6,         // vectors of a matrix for which it pays to lay it out anew
    PANEL_BLOCKS = 32,  // that are laid out at a time: they stay in the first cache
    CLAIM = 4,          // panels that a thread takes at once
    SPINS = 64
};

// How a type's blocks are laid out: numbers are above 0.
struct kind {
    int n_scales;  // of a row's block, each of as many numbers
    bool has_minima;
    int32_t raised;   // by how much numbers are
    bool has_signs;   // numbers are not raised: they lost their signs
    int quads_in_16;  // whose products fit 16 bits, where these are needed
};

static const struct kind kinds[] = {
    [GGML_TYPE_Q4_0] = {1, false, 8, false, 8},
    [GGML_TYPE_Q4_K] = {1, true, 0, false, 8},
    [GGML_TYPE_Q6_K] = {2, false, 32, false, 2},
    [GGML_TYPE_Q8_0] = {1, false, HAS_VNNI ? 128 : 0, !HAS_VNNI, 0},
};

// Four numbers of each of sixteen rows.
typedef uint8_t quads[ROWS][4];

// A block of sixteen rows. scales[1]: the second, or minima.
struct panel_block {
    float scales[2][ROWS];
    quads numbers[QUADS];
    quads signs[HAS_VNNI ? 1 : QUADS];
};

// What is kept from node to node, and grows.
struct memory {
    void *p;
    size_t bytes;
};

// Of one context of llama.cpp's, which computes one graph at a time.
struct matmul {
    struct custom_node_params params;
    struct memory vectors;          // of the node that is computed: struct q8_block
    struct memory entries, starts;  // of its experts, see sort_entries: int32_t, int64_t
    atomic_int arrived, round;
    atomic_llong claimed;
};

// A matrix and the vectors it is multiplied with.
struct product {
    enum ggml_type type;
    const char *matrix;
    size_t row_bytes;
    int64_t n_blocks;
    const struct q8_block *vectors;
    float *out;
    int64_t out_stride;      // in floats
    const int32_t *entries;  // the results that are wanted; NULL: the first
    int64_t n, per_vector;   // of results; vector i is that of results i * per_vector and on
};

// ---------------------------------------------------------------- laying rows out

INLINE void store_quad(quads *numbers, int group, int quad, __m256i v) {
    _mm256_storeu_si256((__m256i *)numbers[quad][group * GROUP], v);
}

// What is in rows becomes what is in columns.
INLINE void turn(const __m256i rows[8], __m256i out[8]) {
    __m256i a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_epi32(rows[i], rows[i + 1]);
        a[i + 1] = _mm256_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        b[i] = _mm256_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm256_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm256_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm256_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        out[i] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x20);
        out[i + 4] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x31);
    }
}

// Four bits, eight bytes of each of eight rows: quads `first` and `first + 1` of a block from the lower halves,
// of another from the upper.
INLINE void lay_out_bytes(const uint8_t (*bytes)[8], __m256i flipped, int group, quads *lower, quads *upper) {
    const __m256i order = _mm256_set_epi32(7, 5, 3, 1, 6, 4, 2, 0);
    const __m256i a = _mm256_permutevar8x32_epi32(load_bytes(bytes), order);
    const __m256i b = _mm256_permutevar8x32_epi32(load_bytes(bytes + GROUP / 2), order);
    const __m256i even = _mm256_xor_si256(_mm256_permute2x128_si256(a, b, 0x20), flipped);
    const __m256i odd = _mm256_xor_si256(_mm256_permute2x128_si256(a, b, 0x31), flipped);
    store_quad(lower, group, 0, lower_bits(even));
    store_quad(lower, group, 1, lower_bits(odd));
    store_quad(upper, group, 0, upper_bits(even));
    store_quad(upper, group, 1, upper_bits(odd));
}

static void lay_out_q4_0(const struct q4_0_group *from, int group, struct panel_block *out) {
    const __m256i flipped = _mm256_set1_epi8((char)0x88);
    _mm256_storeu_ps(out->scales[0] + group * GROUP, load_halves(from->scales));
    for (int i = 0; i < 2; i++) {
        quads *const lower = out->numbers + 2 * i;
        lay_out_bytes(from->bytes[i], flipped, group, lower, lower + QUADS / 2);
    }
}

static void lay_out_q4_k(const struct q4_k_group *from, int group, struct panel_block *out) {
    const __m256 scale = load_halves(from->scales), minimum = load_halves(from->minima);
    const struct six_bits bits = six_bits_of(from);
    for (int b = 0; b < SUPER; b++) {
        const __m256 scales = floats_of_bytes(bits.scales[b]), minima = floats_of_bytes(bits.minima[b]);
        _mm256_storeu_ps(out[b].scales[0] + group * GROUP, _mm256_mul_ps(scale, scales));
        _mm256_storeu_ps(out[b].scales[1] + group * GROUP, _mm256_mul_ps(minimum, minima));
    }
    for (int b = 0; b < SUPER; b += 2) {
        for (int i = 0; i < 4; i++) {
            lay_out_bytes(from->bytes[b / 2][i], _mm256_setzero_si256(), group, out[b].numbers + 2 * i,
                          out[b + 1].numbers + 2 * i);
        }
    }
}

// rows: of eight rows, one every `stride`.
static void lay_out_q6_k(const struct q6_k_row *rows, int64_t stride, int group, struct panel_block *out) {
    __m256i numbers[SUPER][GROUP], scales[2][GROUP], turned[QUADS];
    for (int r = 0; r < GROUP; r++, rows += stride) {
#pragma GCC unroll 8
        for (int b = 0; b < SUPER; b++) {
            numbers[b][r] = numbers_of(rows, b);
        }
        const __m256 scale = _mm256_set1_ps(_cvtsh_ss(rows->scale));
        for (int i = 0; i < 2; i++) {
            const __m128i eight = _mm_loadl_epi64((const __m128i *)(rows->scales + i * SUPER));
            const __m256 whole = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight));
            scales[i][r] = _mm256_castps_si256(_mm256_mul_ps(scale, whole));
        }
    }
    for (int b = 0; b < SUPER; b++) {
        turn(numbers[b], turned);
        for (int q = 0; q < QUADS; q++) {
            store_quad(out[b].numbers, group, q, turned[q]);
        }
    }
    for (int i = 0; i < 2; i++) {
        turn(scales[i], turned);
        for (int s = 0; s < SUPER; s++) {
            float *const to = out[(i * SUPER + s) / 2].scales[s % 2] + group * GROUP;
            _mm256_storeu_ps(to, _mm256_castsi256_ps(turned[s]));
        }
    }
}

// rows: of eight rows, one every `stride`.
static void lay_out_q8_0(const struct q8_0_row *rows, int64_t stride, int group, struct panel_block *out) {
    __m256i numbers[GROUP], turned[QUADS];
    uint16_t scales[GROUP];
    for (int r = 0; r < GROUP; r++, rows += stride) {
        numbers[r] = load_bytes(rows->numbers);
        scales[r] = rows->scale;
    }
    _mm256_storeu_ps(out->scales[0] + group * GROUP, load_halves(scales));
    turn(numbers, turned);
    for (int q = 0; q < QUADS; q++) {
        if (HAS_VNNI) {
            store_quad(out->numbers, group, q, _mm256_xor_si256(turned[q], _mm256_set1_epi8((char)0x80)));
        } else {
            store_quad(out->numbers, group, q, _mm256_abs_epi8(turned[q]));
            store_quad(out->signs, group, q, turned[q]);
        }
    }
}

// Lays out blocks from `first` up to `stop` of the rows from `row` on.
static void lay_out(const struct product *p, int64_t row, int64_t first, int64_t stop, struct panel_block *out) {
    const int64_t n_super = p->n_blocks / SUPER;
    for (int group = 0; group < ROWS / GROUP; group++, row += GROUP) {
        const void *const rows = p->matrix + (size_t)row * p->row_bytes;
        for (int64_t b = first; b < stop; b += has_superblocks(p->type) ? SUPER : 1) {
            const int64_t s = b / SUPER;
            struct panel_block *const to = out + (b - first);
            switch (p->type) {
                case GGML_TYPE_Q4_0: lay_out_q4_0((const struct q4_0_group *)rows + b, group, to); break;
                case GGML_TYPE_Q4_K: lay_out_q4_k((const struct q4_k_group *)rows + s, group, to); break;
                case GGML_TYPE_Q6_K: lay_out_q6_k((const struct q6_k_row *)rows + s, n_super, group, to); break;
                default: lay_out_q8_0((const struct q8_0_row *)rows + b, p->n_blocks, group, to);
            }
        }
    }
}

// ---------------------------------------------------------------- multiplying

// Adds the products of four numbers of each row and of a vector. signs: those that numbers lost.
INLINE ints add_signed(ints sum, ints rows, ints signs, ints vector) {
#if HAS_VNNI
    (void)signs;
    return add(sum, rows, vector);
#else
    const __m256i turned = _mm256_sign_epi8((__m256i)vector, (__m256i)signs);
    return sum + in_32_bits((ints)_mm256_maddubs_epi16((__m256i)rows, turned));
#endif
}

// In every lane.
INLINE ints quad_of(const struct q8_block *v, int q) {
    int32_t x;
    memcpy(&x, v->numbers + 4 * q, sizeof x);
    return (ints){0} + x;
}

// The products of quads from `first` up to `stop` of sixteen rows with n vectors, added to `sum`.
INLINE void add_quads(const bool has_signs, const int n, const struct panel_block *panel,
                      const struct q8_block *const *vectors, int64_t b, const int first, const int stop,
                      ints sum[][REGISTERS]) {
#pragma GCC unroll 8
    for (int q = first; q < stop; q++) {
        for (int r = 0; r < REGISTERS; r++) {
            const ints rows = *(const ints *)panel->numbers[q][r * LANES];
            const ints signs = *(const ints *)panel->signs[has_signs ? q : 0][r * LANES];
            for (int i = 0; i < n; i++) {
                const ints x = quad_of(&vectors[i][b], q);
                sum[i][r] = has_signs ? add_signed(sum[i][r], rows, signs, x) : add(sum[i][r], rows, x);
            }
        }
    }
}

// What the raise adds to the products of the quads that have scale `s`, to be added.
INLINE int32_t correction(const struct kind kind, const struct q8_block *v, int s) {
    return kind.n_scales == 2 ? v->corrections[s] : v->corrections[0] + v->corrections[1];
}

// The products of the quads that have scale `s`, as they are without the raise.
INLINE void multiply_block(const struct kind kind, const int n, const struct panel_block *panel,
                           const struct q8_block *const *vectors, int64_t b, const int s,
                           ints whole[][REGISTERS]) {
    const int first = s * QUADS / kind.n_scales, stop = (s + 1) * QUADS / kind.n_scales;
    const bool at_once = HAS_VNNI || kind.has_signs;
    for (int i = 0; i < n; i++) {
        for (int r = 0; r < REGISTERS; r++) {
            whole[i][r] = (ints){0} + (kind.raised ? correction(kind, &vectors[i][b], s) : 0);
        }
    }
    if (at_once) {
        add_quads(kind.has_signs, n, panel, vectors, b, first, stop, whole);
        return;
    }
#pragma GCC unroll 4
    for (int q = first; q < stop; q += kind.quads_in_16) {
        ints sum[TILE][REGISTERS] = {0};
        add_quads(false, n, panel, vectors, b, q, q + kind.quads_in_16, sum);
        for (int i = 0; i < n; i++) {
            for (int r = 0; r < REGISTERS; r++) {
                whole[i][r] += in_32_bits(sum[i][r]);
            }
        }
    }
}

// Sixteen rows times n vectors, added to out[i][16].
INLINE void multiply(const struct kind kind, const int n, const struct panel_block *panel, int64_t n_blocks,
                     const struct q8_block *const *vectors, float *const *out) {
    floats result[TILE][REGISTERS];
    for (int i = 0; i < n; i++) {
        for (int r = 0; r < REGISTERS; r++) {
            result[i][r] = *(const floats_anywhere *)(out[i] + r * LANES);
        }
    }
    for (int64_t b = 0; b < n_blocks; b++, panel++) {
#pragma GCC unroll 2
        for (int s = 0; s < kind.n_scales; s++) {
            ints whole[TILE][REGISTERS];
            multiply_block(kind, n, panel, vectors, b, s, whole);
            const floats_anywhere *const scales = (const floats_anywhere *)panel->scales[s];
            for (int i = 0; i < n; i++) {
                for (int r = 0; r < REGISTERS; r++) {
                    const floats scale = scales[r] * vectors[i][b].scale;
                    result[i][r] += __builtin_convertvector(whole[i][r], floats) * scale;
                }
            }
        }
        const floats_anywhere *const minima = (const floats_anywhere *)panel->scales[1];
        for (int i = 0; kind.has_minima && i < n; i++) {
            for (int r = 0; r < REGISTERS; r++) {
                result[i][r] -= minima[r] * vectors[i][b].sum;
            }
        }
    }
    for (int i = 0; i < n; i++) {
        for (int r = 0; r < REGISTERS; r++) {
            *(floats_anywhere *)(out[i] + r * LANES) = result[i][r];
        }
    }
}

// All vectors of a product times rows that are laid out: blocks from `block` on, rows from `row` on.
INLINE void multiply_panel(const struct kind kind, const int most, const struct product *p,
                           const struct panel_block *panel, int64_t row, int64_t block, int64_t n_blocks) {
    for (int64_t first = 0; first < p->n; first += most) {
        const int n = p->n - first < most ? (int)(p->n - first) : most;
        const struct q8_block *vectors[TILE];
        float *out[TILE];
        for (int i = 0; i < n; i++) {
            const int64_t entry = p->entries ? p->entries[first + i] : first + i;
            vectors[i] = p->vectors + entry / p->per_vector * p->n_blocks + block;
            out[i] = p->out + entry * p->out_stride + row;
        }
#define CASE(number)                                               \
    case number:                                                   \
        if (number <= most) {                                      \
            multiply(kind, number, panel, n_blocks, vectors, out); \
        }                                                          \
        break
        switch (n) {  // known to the compiler
            ONE_TO_EIGHT(CASE);
        }
#undef CASE
    }
}

// Rows from `first` up to `stop` of a product.
static void multiply_rows(const struct product *p, int64_t first, int64_t stop) {
    struct panel_block panel[PANEL_BLOCKS] __attribute__((aligned(64)));
    for (int64_t i = 0; i < p->n; i++) {
        const int64_t entry = p->entries ? p->entries[i] : i;
        memset(p->out + entry * p->out_stride + first, 0, (size_t)(stop - first) * sizeof(float));
    }
    for (int64_t block = 0; block < p->n_blocks; block += PANEL_BLOCKS) {
        const int64_t n = p->n_blocks - block < PANEL_BLOCKS ? p->n_blocks - block : PANEL_BLOCKS;
        for (int64_t row = first; row < stop; row += ROWS) {
            lay_out(p, row, block, block + n, panel);
#define CASE(type, most) \
    case type: multiply_panel(kinds[type], most, p, panel, row, block, n); break
            switch (p->type) {  // known to the compiler
                CASE(GGML_TYPE_Q4_0, TILE);
                CASE(GGML_TYPE_Q4_K, TILE);
                CASE(GGML_TYPE_Q6_K, WIDE_TILE);
                CASE(GGML_TYPE_Q8_0, WIDE_TILE);
                default: break;
            }
#undef CASE
        }
    }
}

// ---------------------------------------------------------------- threads

// Waits until all threads are here. The last one lets `claimed` begin anew.
static void meet(struct matmul *m, int n_threads) {
    const int round = atomic_load(&m->round);
    if (atomic_fetch_add(&m->arrived, 1) + 1 == n_threads) {
        atomic_store(&m->arrived, 0);
        atomic_store(&m->claimed, 0);
        atomic_store(&m->round, round + 1);
        return;
    }
    for (int spins = 1; atomic_load(&m->round) == round; spins++) {
        if (spins % SPINS) {
            _mm_pause();
        } else {
            sched_yield();
        }
    }
}

static long long claim(struct matmul *m) { return atomic_fetch_add(&m->claimed, 1); }

// Rounds this thread's share of the vectors of a node.
static void round_share(const struct matmul *m, const struct ggml_tensor *dst, int thread, int n_threads) {
    const struct ggml_tensor *const x = dst->src[1];
    const enum ggml_type type = dst->src[0]->type;
    const int64_t n_blocks = x->ne[0] / BLOCK, n = x->ne[1] * x->ne[2];
    struct q8_block *const vectors = m->vectors.p;
    for (int64_t i = n * thread / n_threads; i < n * (thread + 1) / n_threads; i++) {
        const size_t at = (size_t)(i % x->ne[1]) * x->nb[1] + (size_t)(i / x->ne[1]) * x->nb[2];
        const float *const row = (const float *)((const char *)x->data + at);
        round_vector(row, n_blocks, has_superblocks(type), kinds[type].raised, vectors + i * n_blocks);
    }
}

static int32_t expert_of(const struct ggml_tensor *ids, int64_t entry) {
    const size_t at = (size_t)(entry % ids->ne[0]) * ids->nb[0] + (size_t)(entry / ids->ne[0]) * ids->nb[1];
    return *(const int32_t *)((const char *)ids->data + at);
}

// Puts the results of each expert beside each other, in their order: those of expert e are
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

// The product of one expert's matrix with its vectors, or of the only matrix with all.
static struct product product_of(const struct matmul *m, const struct ggml_tensor *dst, int64_t expert) {
    const struct ggml_tensor *const w = dst->src[0], *x = dst->src[1], *ids = dst->src[2];
    const int64_t *const starts = m->starts.p;
    return (struct product){
        .type = w->type,
        .matrix = (const char *)w->data + (size_t)expert * w->nb[2],
        .row_bytes = w->nb[1],
        .n_blocks = w->ne[0] / BLOCK,
        .vectors = m->vectors.p,
        .out = dst->data,
        .out_stride = (int64_t)(dst->nb[1] / sizeof(float)),
        .entries = ids ? (const int32_t *)m->entries.p + starts[expert] : NULL,
        .n = ids ? starts[expert + 1] - starts[expert] : dst->ne[1],
        .per_vector = ids && x->ne[1] == 1 ? ids->ne[0] : 1,
    };
}

// Computes a node. llama.cpp calls it with every one of its threads.
static void compute(struct ggml_tensor *dst, int thread, int n_threads, void *user) {
    struct matmul *const m = user;
    const bool has_experts = dst->src[2];
    if (thread == 0 && has_experts) {
        sort_entries(m, dst);
    }
    round_share(m, dst, thread, n_threads);
    meet(m, n_threads);
    const int64_t rows = dst->src[0]->ne[1], at_once = CLAIM * ROWS, claims = (rows + at_once - 1) / at_once;
    const int64_t n_matrices = has_experts ? dst->src[0]->ne[2] : 1;
    for (int64_t i = claim(m); i < claims * n_matrices; i = claim(m)) {
        const struct product p = product_of(m, dst, i / claims);
        const int64_t first = i % claims * at_once;
        multiply_rows(&p, first, rows - first < at_once ? rows : first + at_once);
    }
}

// ---------------------------------------------------------------- taking a node

static bool grow(struct memory *m, size_t bytes) {
    if (m->bytes < bytes) {
        free(m->p);
        m->p = malloc(bytes);
        m->bytes = m->p ? bytes : 0;
    }
    return m->p;
}

// Whether there is memory for a node.
static bool has_room(struct matmul *m, const struct ggml_tensor *t) {
    const struct ggml_tensor *const w = t->src[0], *x = t->src[1], *ids = t->src[2];
    const size_t n_blocks = (size_t)(x->ne[0] / BLOCK * x->ne[1] * x->ne[2]);
    return grow(&m->vectors, n_blocks * sizeof(struct q8_block)) &&
           (!ids || (grow(&m->entries, (size_t)ggml_nelements(ids) * sizeof(int32_t)) &&
                     grow(&m->starts, (size_t)(w->ne[2] + 2) * sizeof(int64_t))));
}

void take_matmul(struct matmul *m, struct ggml_tensor *t) {
    if (!m || !is_known_product(t)) {
        return;
    }
    const struct ggml_tensor *const w = t->src[0];
    const bool is_many = t->ne[1] * t->ne[2] >= FEWEST * w->ne[2];
    if (is_many && w->ne[1] % ROWS == 0 && ggml_is_contiguous(t) && has_room(m, t)) {
        turn_into_custom_node(t, &m->params);
    }
}

struct matmul *new_matmul(void) {
    struct matmul *const m = calloc(1, sizeof *m);
    if (m && !write_custom_node_params(&m->params, compute, m)) {
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
