// Matrices times few vectors, in place of llama.cpp's: what a token is made of.
//
// What should wait for memory computes in llama.cpp, where matrices are repacked in groups of eight rows, and
// a core that computes asks memory too late. Here a row of a group has two lanes of the result, nothing is
// shuffled before the last block, and memory is asked ahead: docs/decisions/0013. The activations are rounded
// to 8 bits as llama.cpp rounds them, so results differ by the order of sums alone.

#include "matvec.h"

#include <stdlib.h>

#include "custom_node.h"
#include "products.h"

#if HAS_PRODUCTS

#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

enum {
    REGISTERS = 2 * GROUP / LANES,
    MOST_VECTORS = LANES == 16 ? 8 : 5,  // more are for matmul.c
    MOST_OF_PLAIN = 5,                   // of matrices that are not repacked
    AHEAD = 4608,                        // bytes that are asked for before they are needed
    LEAST_CLAIM = 262144,                // bytes that a thread takes at once, where there are as many
    MAX_WIDTH = 32768,
    FLIPPED = (int32_t)0x88888888  // bits of Q4_0
};

typedef float eight_floats __attribute__((vector_size(32)));

// Of one context of llama.cpp's, which computes one node at a time.
struct matvec {
    struct custom_node_params params;
    atomic_llong claimed;  // groups of rows of that node
    atomic_int done;       // threads
};

// ---------------------------------------------------------------- a group of rows

#if defined(__AVX512VNNI__)
INLINE ints shuffled(ints x, ints order) { return (ints)_mm512_shuffle_epi8((__m512i)x, (__m512i)order); }
#else
INLINE ints shuffled(ints x, ints order) { return (ints)_mm256_shuffle_epi8((__m256i)x, (__m256i)order); }
#endif

// Halves of eight bytes of each of eight rows: two lanes for each row.
struct unpacked {
    ints lower[REGISTERS], upper[REGISTERS];
};

// flip: bits that are flipped.
INLINE struct unpacked unpack(const uint8_t (*bytes)[8], const int32_t flip) {
    const ints flips = (ints){0} + flip, half = (ints){0} + 0x0f0f0f0f;
    struct unpacked u;
    for (int r = 0; r < REGISTERS; r++) {
        ints v;
        memcpy(&v, bytes + r * GROUP / REGISTERS, sizeof v);
#if defined(__AVX512VNNI__)
        const __m512i f = (__m512i)flips, h = (__m512i)half;  // (v ^ flips) & half, in one instruction
        u.lower[r] = (ints)_mm512_ternarylogic_epi32((__m512i)v, f, h, 0x28);
        u.upper[r] = (ints)_mm512_ternarylogic_epi32((__m512i)(v >> 4), f, h, 0x28);
#else
        v ^= flips;
        u.lower[r] = v & half;
        u.upper[r] = (v >> 4) & half;
#endif
    }
    return u;
}

// Eight bytes, for every row.
INLINE ints eight_bytes(const void *from) {
    typedef int64_t longs __attribute__((vector_size(sizeof(ints))));
    int64_t x;
    memcpy(&x, from, sizeof x);
    return (ints)((longs){0} + x);
}

INLINE ints eight_of(const struct q8_block *v, int first) { return eight_bytes(v->numbers + first); }

INLINE ints corrections_of(const struct q8_block *v) { return eight_bytes(v->corrections); }

// For both lanes of each row.
INLINE void spread(__m256 of_rows, floats out[REGISTERS]) {
    const eight_floats x = (eight_floats)of_rows;
#if defined(__AVX512VNNI__)
    out[0] = __builtin_shufflevector(x, x, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
#else
    out[0] = __builtin_shufflevector(x, x, 0, 0, 1, 1, 2, 2, 3, 3);
    out[1] = __builtin_shufflevector(x, x, 4, 4, 5, 5, 6, 6, 7, 7);
#endif
}

// Adds both lanes of each row.
INLINE eight_floats gather(const floats sums[REGISTERS]) {
    float lanes[2 * GROUP];
    memcpy(lanes, sums, sizeof lanes);
    eight_floats of_rows;
    for (int i = 0; i < GROUP; i++) {
        of_rows[i] = lanes[2 * i] + lanes[2 * i + 1];
    }
    return of_rows;
}

INLINE void store_rows(float *out, eight_floats x) { _mm256_storeu_ps(out, (__m256)x); }

// Has memory send what is needed later. A core that computes between two reads does not ask early enough
// by itself.
INLINE void ask_ahead(const void *from, const int bytes) {
    for (int i = 0; i < bytes; i += 64) {
        _mm_prefetch((const char *)from + AHEAD + i, _MM_HINT_T0);
    }
}

// Eight rows times n vectors: out[i][8].
INLINE void multiply_q4_0(const int n, const struct q4_0_group *rows, const struct q8_block *const *vectors,
                          int64_t n_blocks, float *const *out) {
    floats sums[MOST_VECTORS][REGISTERS] = {0};
    for (int64_t b = 0; b < n_blocks; b++) {
        ask_ahead(&rows[b], sizeof rows[b]);
        const struct unpacked first = unpack(rows[b].bytes[0], FLIPPED);
        const struct unpacked second = unpack(rows[b].bytes[1], FLIPPED);
        floats scales[REGISTERS];
        spread(load_halves(rows[b].scales), scales);
        for (int i = 0; i < n; i++) {
            const struct q8_block *const v = &vectors[i][b];
            for (int r = 0; r < REGISTERS; r++) {
                ints sum = HAS_VNNI ? corrections_of(v) : (ints){0};
                sum = add(sum, first.lower[r], eight_of(v, 0));
                sum = add(sum, second.lower[r], eight_of(v, 8));
                sum = add(sum, first.upper[r], eight_of(v, 16));
                sum = add(sum, second.upper[r], eight_of(v, 24));
                const ints whole = HAS_VNNI ? sum : in_32_bits(sum) + corrections_of(v);
                sums[i][r] += __builtin_convertvector(whole, floats) * (scales[r] * v->scale);
            }
        }
    }
    for (int i = 0; i < n; i++) {
        store_rows(out[i], gather(sums[i]));
    }
}

// Eight numbers below 256, one for each row, as factors of `add_scaled`.
INLINE void spread_bytes(const uint8_t *of_rows, ints out[REGISTERS]) {
    typedef int8_t bytes __attribute__((vector_size(sizeof(ints))));
    bytes order;  // of the factor of each lane, or of both halves of a lane; -1: 0
    const ints all = eight_bytes(of_rows);
    for (int r = 0; r < REGISTERS; r++) {
        for (int i = 0; i < LANES * 4; i++) {
            order[i] = i % (HAS_VNNI ? 4 : 2) ? -1 : (int8_t)(r * GROUP / REGISTERS + i / 8);
        }
        out[r] = shuffled(all, (ints)order);
    }
}

// The same for n_super superblocks of Q4_K.
INLINE void multiply_q4_k(const int n, const struct q4_k_group *rows, const struct q8_block *const *vectors,
                          int64_t n_super, float *const *out) {
    floats sums[MOST_VECTORS][REGISTERS] = {0};
    eight_floats least[MOST_VECTORS] = {0};
    for (int64_t s = 0; s < n_super; s++, rows++) {
        const struct six_bits bits = six_bits_of(rows);
        ints whole[MOST_VECTORS][REGISTERS] = {0};
        eight_floats whole_least[MOST_VECTORS] = {0};
        for (int b = 0; b < SUPER; b += 2) {
            ask_ahead(rows->bytes[b / 2], sizeof rows->bytes[b / 2]);
            struct unpacked parts[4];
            for (int k = 0; k < 4; k++) {
                parts[k] = unpack(rows->bytes[b / 2][k], 0);
            }
            for (int half = 0; half < 2; half++) {
                const eight_floats minima = (eight_floats)floats_of_bytes(bits.minima[b + half]);
                ints scales[REGISTERS];
                spread_bytes(bits.scales[b + half], scales);
                for (int i = 0; i < n; i++) {
                    const struct q8_block *const v = &vectors[i][s * SUPER + b + half];
                    for (int r = 0; r < REGISTERS; r++) {
                        ints sum = {0};
                        for (int k = 0; k < 4; k++) {
                            sum = add(sum, half ? parts[k].upper[r] : parts[k].lower[r], eight_of(v, 8 * k));
                        }
                        whole[i][r] = add_scaled(whole[i][r], sum, scales[r]);
                    }
                    whole_least[i] += minima * v->sum;
                }
            }
        }
        floats scales[REGISTERS];
        spread(load_halves(rows->scales), scales);
        const eight_floats minima = (eight_floats)load_halves(rows->minima);
        for (int i = 0; i < n; i++) {
            for (int r = 0; r < REGISTERS; r++) {
                const float scale = vectors[i][s * SUPER].scale;
                sums[i][r] += __builtin_convertvector(whole[i][r], floats) * (scales[r] * scale);
            }
            least[i] += minima * whole_least[i];
        }
    }
    for (int i = 0; i < n; i++) {
        store_rows(out[i], gather(sums[i]) - least[i]);
    }
}

// ---------------------------------------------------------------- a row

INLINE float sum_of(__m256 x) {
    eight_floats lanes = (eight_floats)x;
    return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

// The products of 32 numbers without their signs and of 32 with both signs, in eight sums.
INLINE __m256i products_of(__m256i sizes, __m256i x) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    return _mm256_dpbusd_epi32(_mm256_setzero_si256(), sizes, x);
#elif defined(__AVXVNNI__)
    return _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), sizes, x);
#else
    return _mm256_madd_epi16(_mm256_maddubs_epi16(sizes, x), _mm256_set1_epi16(1));
#endif
}

// A row times n vectors: out[i][0].
INLINE void multiply_q8_0(const int n, const struct q8_0_row *row, const struct q8_block *const *vectors,
                          int64_t n_blocks, float *const *out) {
    __m256 sums[MOST_VECTORS];
    for (int i = 0; i < n; i++) {
        sums[i] = _mm256_setzero_ps();
    }
    for (int64_t b = 0; b < n_blocks; b++) {
        ask_ahead(&row[b], 1);
        const __m256i numbers = load_bytes(row[b].numbers), sizes = _mm256_abs_epi8(numbers);
        const float scale = _cvtsh_ss(row[b].scale);
        for (int i = 0; i < n; i++) {
            const struct q8_block *const v = &vectors[i][b];
            const __m256i x = _mm256_sign_epi8(load_bytes(v->numbers), numbers);
            const __m256 whole = _mm256_cvtepi32_ps(products_of(sizes, x));
            sums[i] = _mm256_fmadd_ps(whole, _mm256_set1_ps(scale * v->scale), sums[i]);
        }
    }
    for (int i = 0; i < n; i++) {
        out[i][0] = sum_of(sums[i]);
    }
}

#if defined(__AVX512VNNI__)

// A superblock of a vector as rows of Q6_K want it, in the place of its blocks. sums: of 16 numbers each.
struct __attribute__((may_alias)) q8_super {
    int8_t numbers[SUPER * BLOCK];
    int16_t sums[2 * SUPER];
    float scale;
};
_Static_assert(sizeof(struct q8_super) <= SUPER * sizeof(struct q8_block), "it takes their place");

static void pack_super(struct q8_block *blocks) {
    struct q8_super packed = {.scale = blocks[0].scale};
    for (int b = 0; b < SUPER; b++) {
        memcpy(packed.numbers + b * BLOCK, blocks[b].numbers, BLOCK);
        packed.sums[2 * b] = (int16_t)-blocks[b].corrections[0];
        packed.sums[2 * b + 1] = (int16_t)-blocks[b].corrections[1];
    }
    memcpy(blocks, &packed, sizeof packed);
}

INLINE const struct q8_super *super_of(const struct q8_block *vector, int64_t s) {
    return (const struct q8_super *)&vector[s * SUPER];
}

// The numbers of four blocks, raised by 32, from their lower and upper bits.
struct four_blocks {
    __m512i first, second;
};

INLINE struct four_blocks four_of(const struct q6_k_row *row, const int half) {
    const __m512i bytes = _mm512_loadu_si512(row->lower[half]);
    const __m512i upper = _mm512_broadcast_i64x4(load_bytes(row->upper[half]));
    const __m512i to_left = _mm512_inserti64x4(_mm512_set1_epi16(4), _mm256_set1_epi16(2), 1);
    const __m512i to_right = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(2), 1);
    const __m512i four = _mm512_set1_epi8(0x0f), six = _mm512_set1_epi8(0x3f);
    // four ? lower bits : upper bits
    const __m512i first = _mm512_ternarylogic_epi32(four, bytes, _mm512_sllv_epi16(upper, to_left), 0xca);
    const __m512i second = _mm512_ternarylogic_epi32(four, _mm512_srli_epi16(bytes, 4),
                                                     _mm512_srlv_epi16(upper, to_right), 0xca);
    return (struct four_blocks){_mm512_and_si512(first, six), _mm512_and_si512(second, six)};
}

// Of sixteen scales, the four from `first` on, four lanes each.
INLINE __m512i four_scales(__m512i scales, const int first) {
    const __m512i order = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
    return _mm512_permutexvar_epi32(_mm512_add_epi32(order, _mm512_set1_epi32(first)), scales);
}

// The same for n_super superblocks of Q6_K.
INLINE void multiply_q6_k(const int n, const struct q6_k_row *row, const struct q8_block *const *vectors,
                          int64_t n_super, float *const *out) {
    __m512 sums[MOST_VECTORS];
    for (int i = 0; i < n; i++) {
        sums[i] = _mm512_setzero_ps();
    }
    for (int64_t s = 0; s < n_super; s++, row++) {
        ask_ahead(row, sizeof *row);
        const __m256i scales = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)row->scales));
        const __m512i wide = _mm512_cvtepu16_epi32(scales);  // the other half of a lane counts nothing
        __m512i whole[MOST_VECTORS];
        for (int i = 0; i < n; i++) {
            const struct q8_super *const v = super_of(vectors[i], s);
            const __m256i raised = _mm256_madd_epi16(scales, load_bytes(v->sums));
            whole[i] = _mm512_sub_epi32(_mm512_setzero_si512(),
                                        _mm512_zextsi256_si512(_mm256_slli_epi32(raised, 5)));
        }
        for (int half = 0; half < 2; half++) {
            const struct four_blocks rows = four_of(row, half);
            const __m512i first = four_scales(wide, 8 * half), second = four_scales(wide, 8 * half + 4);
            for (int i = 0; i < n; i++) {
                const struct q8_super *const v = super_of(vectors[i], s);
                const int8_t *const x = v->numbers + half * 4 * BLOCK;
                const __m512i zero = _mm512_setzero_si512();
                const __m512i a = _mm512_dpbusd_epi32(zero, rows.first, _mm512_loadu_si512(x));
                const __m512i b = _mm512_dpbusd_epi32(zero, rows.second, _mm512_loadu_si512(x + 2 * BLOCK));
                whole[i] = _mm512_dpwssd_epi32(whole[i], a, first);
                whole[i] = _mm512_dpwssd_epi32(whole[i], b, second);
            }
        }
        const float scale = _cvtsh_ss(row->scale);
        for (int i = 0; i < n; i++) {
            const struct q8_super *const v = super_of(vectors[i], s);
            sums[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole[i]), _mm512_set1_ps(scale * v->scale), sums[i]);
        }
    }
    for (int i = 0; i < n; i++) {
        out[i][0] = _mm512_reduce_add_ps(sums[i]);
    }
}

#else

// Of scales in both lanes, the one at `first` for the lower lane and the next for the upper, in 16 bits.
INLINE __m256i two_scales(__m256i scales, const int first) {
    const int16_t lower = (int16_t)(0x0100 * (2 * first + 1) + 2 * first), upper = (int16_t)(lower + 0x0202);
    const __m256i order = _mm256_set_m128i(_mm_set1_epi16(upper), _mm_set1_epi16(lower));
    return _mm256_shuffle_epi8(scales, order);
}

// What the raise adds to sixteen sums of two products each, to be added: eight of each scale, all alike.
INLINE __m256i eighths_of_corrections(const struct q8_block *v) {
    const __m256i order = _mm256_set_m128i(_mm_set1_epi16(0x0504), _mm_set1_epi16(0x0100));
    int64_t both;
    memcpy(&both, v->corrections, sizeof both);
    return _mm256_shuffle_epi8(_mm256_set1_epi64x(both), order);
}

// The same for n_super superblocks of Q6_K.
INLINE void multiply_q6_k(const int n, const struct q6_k_row *row, const struct q8_block *const *vectors,
                          int64_t n_super, float *const *out) {
    __m256 sums[MOST_VECTORS];
    for (int i = 0; i < n; i++) {
        sums[i] = _mm256_setzero_ps();
    }
    for (int64_t s = 0; s < n_super; s++, row++) {
        ask_ahead(row, sizeof *row);
        const __m128i scales = _mm_loadu_si128((const __m128i *)row->scales);
        const __m256i first = _mm256_broadcastsi128_si256(_mm_cvtepi8_epi16(scales));
        const __m256i second = _mm256_broadcastsi128_si256(_mm_cvtepi8_epi16(_mm_srli_si128(scales, 8)));
        __m256i whole[MOST_VECTORS];
        for (int i = 0; i < n; i++) {
            whole[i] = _mm256_setzero_si256();
        }
#pragma GCC unroll 8
        for (int b = 0; b < SUPER; b++) {
            const __m256i numbers = numbers_of(row, b);
            const __m256i factors = two_scales(b < 4 ? first : second, 2 * (b % 4));
            for (int i = 0; i < n; i++) {
                const struct q8_block *const v = &vectors[i][s * SUPER + b];
                const __m256i products = _mm256_maddubs_epi16(numbers, load_bytes(v->numbers));
                const __m256i exact = _mm256_add_epi16(products, eighths_of_corrections(v));
                whole[i] = _mm256_add_epi32(whole[i], _mm256_madd_epi16(exact, factors));
            }
        }
        const float scale = _cvtsh_ss(row->scale);
        for (int i = 0; i < n; i++) {
            const __m256 factor = _mm256_set1_ps(scale * vectors[i][s * SUPER].scale);
            sums[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole[i]), factor, sums[i]);
        }
    }
    for (int i = 0; i < n; i++) {
        out[i][0] = sum_of(sums[i]);
    }
}

#endif

// ---------------------------------------------------------------- a node

// Groups of eight rows, `first` up to `stop`, of a matrix like w times n vectors; out[i]: of all rows.
INLINE void multiply(const int n, const struct ggml_tensor *w, const char *matrix,
                     const struct q8_block *const *vectors, float *const *out, int64_t first, int64_t stop) {
    const int64_t n_blocks = w->ne[0] / BLOCK, n_super = n_blocks / SUPER;
    const bool is_group = w->type == GGML_TYPE_Q4_0 || w->type == GGML_TYPE_Q4_K;
    const int64_t step = is_group ? GROUP : 1;
    for (int64_t row = first * GROUP; row < stop * GROUP; row += step) {
        float *to[MOST_VECTORS];
        for (int v = 0; v < n; v++) {
            to[v] = out[v] + row;
        }
        const char *const from = matrix + (size_t)row * w->nb[1];
        switch (w->type) {
            case GGML_TYPE_Q4_0: multiply_q4_0(n, (const void *)from, vectors, n_blocks, to); break;
            case GGML_TYPE_Q4_K: multiply_q4_k(n, (const void *)from, vectors, n_super, to); break;
            case GGML_TYPE_Q6_K: multiply_q6_k(n, (const void *)from, vectors, n_super, to); break;
            default: multiply_q8_0(n, (const void *)from, vectors, n_blocks, to);
        }
    }
}

static void round_row(const struct ggml_tensor *w, const struct ggml_tensor *x, int64_t i,
                      struct q8_block *out) {
    const float *const row = (const float *)((const char *)x->data + (size_t)i * x->nb[1]);
    const int64_t n_blocks = w->ne[0] / BLOCK;
#if defined(__AVX512VNNI__)
    round_vector(row, n_blocks, has_superblocks(w->type), w->type == GGML_TYPE_Q6_K ? 1 : 8, out);
    for (int64_t b = 0; w->type == GGML_TYPE_Q6_K && b < n_blocks; b += SUPER) {
        pack_super(out + b);
    }
#else
    const int32_t raised = w->type == GGML_TYPE_Q6_K ? 32 / 8 : 8;  // see eighths_of_corrections
    round_vector(row, n_blocks, has_superblocks(w->type), raised, out);
#endif
}

// Groups of rows, of all matrices of a node.
struct part {
    int64_t first, stop;
};

// What a thread computes next of n groups of rows: many at first and ever fewer, so that unlike cores, and
// cores that others use as well, are done at the same time. False where nothing is left.
static bool claim(struct matvec *m, int64_t n, size_t group_bytes, int n_threads, struct part *out) {
    const int64_t least = group_bytes < LEAST_CLAIM ? (int64_t)(LEAST_CLAIM / group_bytes) : 1;
    long long first = atomic_load(&m->claimed);
    int64_t stop;
    do {
        const int64_t left = n - first, some = n_threads > 1 ? left * 3 / (4 * n_threads) : left;
        const int64_t wanted = some > least ? some : least;
        stop = first + (wanted < left ? wanted : left);
    } while (!atomic_compare_exchange_weak(&m->claimed, &first, stop));
    *out = (struct part){first, stop};
    return first < stop;
}

// The last thread has the next node begin anew: llama.cpp lets nobody begin it before all are here.
static void leave(struct matvec *m, int n_threads) {
    if (atomic_fetch_add(&m->done, 1) + 1 == n_threads) {
        atomic_store(&m->claimed, 0);
        atomic_store(&m->done, 0);
    }
}

// A matrix times few vectors.
static void multiply_all(struct matvec *m, struct ggml_tensor *dst, int n_threads) {
    const struct ggml_tensor *const w = dst->src[0], *x = dst->src[1];
    const int64_t n_blocks = w->ne[0] / BLOCK, n_groups = w->ne[1] / GROUP, n = x->ne[1];
    struct q8_block blocks[n * n_blocks];
    const struct q8_block *vectors[MOST_VECTORS];
    float *out[MOST_VECTORS];
    for (int64_t i = 0; i < n; i++) {
        round_row(w, x, i, blocks + i * n_blocks);
        vectors[i] = blocks + i * n_blocks;
        out[i] = (float *)((char *)dst->data + (size_t)i * dst->nb[1]);
    }
    struct part part;
    while (claim(m, n_groups, GROUP * w->nb[1], n_threads, &part)) {
#define CASE(number)                                                           \
    case number:                                                               \
        if (number <= MOST_VECTORS) {                                          \
            multiply(number, w, w->data, vectors, out, part.first, part.stop); \
        }                                                                      \
        break
        switch (n) {  // known to the compiler
            ONE_TO_EIGHT(CASE);
        }
#undef CASE
    }
}

// The matrices of some experts, each times a vector of one token.
static void multiply_experts(struct matvec *m, struct ggml_tensor *dst, int n_threads) {
    const struct ggml_tensor *const w = dst->src[0], *x = dst->src[1], *ids = dst->src[2];
    const int64_t n_blocks = w->ne[0] / BLOCK, n_groups = w->ne[1] / GROUP;
    struct q8_block blocks[n_blocks];
    const struct q8_block *const vector = blocks;
    int64_t rounded = -1;
    struct part part;
    while (claim(m, n_groups * ids->ne[0], GROUP * w->nb[1], n_threads, &part)) {
        for (int64_t i = part.first; i < part.stop;) {
            const int64_t expert = i / n_groups, begin = i % n_groups, left = part.stop - i;
            const int64_t end = left < n_groups - begin ? begin + left : n_groups;
            const int32_t id = *(const int32_t *)((const char *)ids->data + (size_t)expert * ids->nb[0]);
            if (rounded != expert % x->ne[1]) {
                rounded = expert % x->ne[1];
                round_row(w, x, rounded, blocks);
            }
            float *const out = (float *)((char *)dst->data + (size_t)expert * dst->nb[1]);
            multiply(1, w, (const char *)w->data + (size_t)id * w->nb[2], &vector, &out, begin, end);
            i += end - begin;
        }
    }
}

// Computes a node. llama.cpp calls it with every one of its threads.
static void compute(struct ggml_tensor *dst, int thread, int n_threads, void *user) {
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
    const int most = is_plain(w) ? MOST_OF_PLAIN : MOST_VECTORS;
    const bool few = t->op == GGML_OP_MUL_MAT_ID ? x->ne[2] == 1 : x->ne[1] <= most;
    if (few && x->ne[1] > 0 && w->ne[0] <= MAX_WIDTH && w->ne[1] % GROUP == 0) {
        turn_into_custom_node(t, &m->params);
    }
}

struct matvec *new_matvec(void) {
    struct matvec *const m = calloc(1, sizeof *m);
    if (m && !write_custom_node_params(&m->params, compute, m)) {
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
