// Matrices times many vectors, in place of llama.cpp's: what a prompt is made of.
//
// A block's product is a whole number, which two scales make a part of a result. llama.cpp does that for
// every row and vector on its own, and shuffles lanes to add up what lies beside each other. Here the blocks
// of sixteen rows are laid out anew, once for all vectors, so that each lane is a row's: the products of
// sixteen rows and a vector are scaled at once, and nothing is shuffled: docs/decisions/0014. Activations are
// rounded to 8 bits as llama.cpp rounds them, so results differ by the order of sums alone.

#include "matmul.h"

#include "nodes.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <ggml-backend.h>
#include <immintrin.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "numbers.h"

// Numbers of a vector register, and vectors that share what is read: what fits the registers.
#if defined(__AVX512VNNI__)
#define HAS_VNNI 1
enum { LANES = 16, TILE = 8, WIDE_TILE = 8 };
#elif defined(__AVXVNNI__)
#define HAS_VNNI 1
enum { LANES = 8, TILE = 3, WIDE_TILE = 3 };
#else
#define HAS_VNNI 0
enum { LANES = 8, TILE = 3, WIDE_TILE = 2 };
#endif

enum {
    BLOCK = 32,  // numbers with a scale
    QUADS = 8,   // of a block
    SUPER = 8,   // blocks of a superblock
    ROWS = 16,   // that are laid out together
    REGISTERS = ROWS / LANES,
    GROUP = 8,          // rows that llama.cpp lays out together
    FEWEST = 16,        // vectors for which it pays to lay rows out anew
    PANEL_BLOCKS = 32,  // that are laid out at a time: they stay in the first cache
    CLAIM = 4,          // panels that a thread takes at once
    SPINS = 64
};

typedef int32_t ints __attribute__((vector_size(LANES * 4)));
typedef float floats __attribute__((vector_size(LANES * 4)));
typedef float floats_anywhere __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

// Eight rows' blocks of Q4_0, as llama.cpp repacks them: of each byte the upper bits of both halves are
// flipped; byte 8 i + j is row i's j-th, byte 64 + 8 i + j its (8 + j)-th.
struct q4_0_group {
    uint16_t scales[GROUP];
    uint8_t bytes[GROUP * BLOCK / 2];
};

// Eight rows' superblocks of Q4_K, as llama.cpp repacks them: for each block eight scales and eight minima of
// six bits, then eight bytes of each row in turn.
struct q4_k_group {
    uint16_t scales[GROUP], minima[GROUP];
    uint8_t of_blocks[SUPER][12];
    uint8_t bytes[SUPER / 2][4][GROUP][8];
};

// A row's superblock of Q6_K: lower four and upper two bits, and a scale for each 16 numbers.
struct q6_k_row {
    uint8_t lower[2][2][BLOCK], upper[2][BLOCK];
    int8_t scales[2 * SUPER];
    uint16_t scale;
};

// A row's block of Q8_0.
struct q8_0_row {
    uint16_t scale;
    int8_t numbers[BLOCK];
};

// How a type's blocks are laid out. Numbers are raised to be above 0.
struct kind {
    int n_scales;  // of a row's block, each of as many numbers
    bool has_minima;
    int n_parts;       // of eight bits, without VNNI: the upper four, and the lower
    int quads_in_16;   // whose products fit 16 bits, without VNNI
    int32_t raised;    // by how much
    bool is_super;     // activations are rounded 256 at a time
};

enum type { Q4_0, Q4_K, Q6_K, Q8_0 };

static const struct kind kinds[] = {
    [Q4_0] = {1, false, 1, 8, 8, false},
    [Q4_K] = {1, true, 1, 8, 0, true},
    [Q6_K] = {2, false, 1, 2, 32, true},
    [Q8_0] = {1, false, HAS_VNNI ? 1 : 2, 8, 128, false},
};

// A block of a vector.
struct q8_block {
    float scale;
    int32_t corrections[2];  // for each scale of a row: what the raise adds to a product, to be added
    float sum;
    int8_t numbers[BLOCK];
};

// Four numbers of each of sixteen rows.
typedef uint8_t quads[ROWS][4];

// A block of sixteen rows; a kind uses as much as it needs of `numbers`, and of `scales` (or minima).
struct panel_block {
    float scales[2][ROWS];
    quads numbers[HAS_VNNI ? 1 : 2][QUADS];
};

// Of one context of llama.cpp's, which computes one graph at a time.
struct matmul {
    struct node_params params;
    struct q8_block *vectors;  // of the node that is computed
    size_t vectors_bytes;
    int32_t *entries;  // of the experts, see `product`
    int64_t *starts;   // [n_experts + 2] in `entries`
    size_t entries_bytes, starts_bytes;
    atomic_int arrived, round;
    atomic_llong claimed;
};

// A matrix and the vectors it is multiplied with.
struct product {
    enum type type;
    const char *matrix;
    int64_t n_blocks;
    const struct q8_block *vectors;
    float *out;
    int64_t out_stride;      // in floats
    const int32_t *entries;  // the results that are wanted; NULL: the first
    int64_t n, per_vector;   // of results; vector i is that of results i * per_vector and on
};

// ---------------------------------------------------------------- vectors

static void round_block(const float *x, float inverse, float scale, int32_t raised, struct q8_block *out) {
    int32_t sums[2] = {0};
    for (int half = 0; half < 2; half++) {
        for (int i = half * BLOCK / 2; i < (half + 1) * BLOCK / 2; i++) {
            const int32_t q = (int32_t)rintf(x[i] * inverse);
            out->numbers[i] = (int8_t)q;
            sums[half] += q;
        }
    }
    out->scale = scale;
    out->sum = scale * (float)(sums[0] + sums[1]);
    out->corrections[0] = -raised * sums[0];
    out->corrections[1] = -raised * sums[1];
}

// The largest of |x|, compared as integers: the same order, and it vectorizes.
static float largest(const float *x, int n) {
    uint32_t most = 0;
    for (int i = 0; i < n; i++) {
        const uint32_t u = bits_of(x[i]) & 0x7fffffffu;
        most = u > most ? u : most;
    }
    return float_of(most);
}

static void quantize(const float *x, int64_t n_blocks, const struct kind *kind, struct q8_block *out) {
    const int at_once = kind->is_super ? SUPER : 1;
    for (int64_t b = 0; b < n_blocks; b += at_once) {
        const float most = largest(x + b * BLOCK, at_once * BLOCK), inverse = most != 0 ? 127.0f / most : 0;
        const float half = _cvtsh_ss(_cvtss_sh(most / 127.0f, _MM_FROUND_TO_NEAREST_INT));
        const float scale = !kind->is_super ? half : most != 0 ? 1 / inverse : 0;
        for (int64_t i = b; i < b + at_once; i++) {
            round_block(x + i * BLOCK, inverse, scale, kind->raised, &out[i]);
            if (kind->n_scales == 1) {
                out[i].corrections[0] += out[i].corrections[1];
            }
        }
    }
}

// ---------------------------------------------------------------- laying rows out

INLINE __m256i load_bytes(const void *from) { return _mm256_loadu_si256(from); }

INLINE __m256i lower_bits(__m256i v) { return _mm256_and_si256(v, _mm256_set1_epi8(0x0f)); }

INLINE __m256i upper_bits(__m256i v) { return lower_bits(_mm256_srli_epi16(v, 4)); }

INLINE __m256 load_halves(const uint16_t *from) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from)); }

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
INLINE void lay_out_bytes(const uint8_t *bytes, __m256i flipped, int group, quads *lower, quads *upper) {
    const __m256i order = _mm256_set_epi32(7, 5, 3, 1, 6, 4, 2, 0);
    const __m256i a = _mm256_permutevar8x32_epi32(load_bytes(bytes), order);
    const __m256i b = _mm256_permutevar8x32_epi32(load_bytes(bytes + 32), order);
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
        quads *const lower = out->numbers[0] + 2 * i;
        lay_out_bytes(from->bytes + 64 * i, flipped, group, lower, lower + QUADS / 2);
    }
}

// Eight numbers of six bits, of which two words hold the lower ones, and the others' parts.
INLINE __m256 six_bits(uint32_t word, uint32_t lower) {
    const uint32_t first = word & 0x3f3f3f3fu, second = (lower & 0x0f0f0f0fu) | (word >> 2 & 0x30303030u);
    const __m128i bytes = _mm_set_epi32(0, 0, (int)second, (int)first);
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
}

static void lay_out_q4_k(const struct q4_k_group *from, int group, struct panel_block *out) {
    const __m256 scale = load_halves(from->scales), minimum = load_halves(from->minima);
    for (int b = 0; b < SUPER; b++) {
        uint32_t words[3];
        memcpy(words, from->of_blocks[b], sizeof words);
        _mm256_storeu_ps(out[b].scales[0] + group * GROUP, _mm256_mul_ps(scale, six_bits(words[0], words[2])));
        _mm256_storeu_ps(out[b].scales[1] + group * GROUP, _mm256_mul_ps(minimum, six_bits(words[1], words[2] >> 4)));
    }
    for (int b = 0; b < SUPER; b += 2) {
        for (int i = 0; i < 4; i++) {
            lay_out_bytes(from->bytes[b / 2][i][0], _mm256_setzero_si256(), group, out[b].numbers[0] + 2 * i,
                          out[b + 1].numbers[0] + 2 * i);
        }
    }
}

// rows: of eight rows, one every `stride`.
static void lay_out_q6_k(const struct q6_k_row *rows, int64_t stride, int group, struct panel_block *out) {
    __m256i numbers[SUPER][GROUP], scales[2][GROUP], turned[QUADS];
    for (int r = 0; r < GROUP; r++, rows += stride) {
        for (int i = 0; i < 2; i++) {
            const __m256i upper = load_bytes(rows->upper[i]), two = _mm256_set1_epi8(0x30);
            const __m256i a = load_bytes(rows->lower[i][0]), b = load_bytes(rows->lower[i][1]);
            numbers[4 * i][r] = _mm256_or_si256(lower_bits(a), _mm256_and_si256(_mm256_slli_epi16(upper, 4), two));
            numbers[4 * i + 1][r] = _mm256_or_si256(lower_bits(b), _mm256_and_si256(_mm256_slli_epi16(upper, 2), two));
            numbers[4 * i + 2][r] = _mm256_or_si256(upper_bits(a), _mm256_and_si256(upper, two));
            numbers[4 * i + 3][r] = _mm256_or_si256(upper_bits(b), _mm256_and_si256(_mm256_srli_epi16(upper, 2), two));
        }
        const __m256 scale = _mm256_set1_ps(_cvtsh_ss(rows->scale));
        for (int i = 0; i < 2; i++) {
            const __m128i eight = _mm_loadl_epi64((const __m128i *)(rows->scales + i * SUPER));
            scales[i][r] = _mm256_castps_si256(_mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight))));
        }
    }
    for (int b = 0; b < SUPER; b++) {
        turn(numbers[b], turned);
        for (int q = 0; q < QUADS; q++) {
            store_quad(out[b].numbers[0], group, q, turned[q]);
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
        const __m256i raised = _mm256_xor_si256(turned[q], _mm256_set1_epi8((char)0x80));
        store_quad(out->numbers[0], group, q, HAS_VNNI ? raised : upper_bits(raised));
        if (!HAS_VNNI) {
            store_quad(out->numbers[!HAS_VNNI], group, q, lower_bits(raised));
        }
    }
}

// Lays out blocks from `first` up to `stop` of the rows from `row` on.
static void lay_out(const struct product *p, int64_t row, int64_t first, int64_t stop, struct panel_block *out) {
    const int64_t n = p->n_blocks, n_super = n / SUPER;
    for (int group = 0; group < ROWS / GROUP; group++, row += GROUP) {
        for (int64_t b = first; b < stop; b++) {
            struct panel_block *const to = out + (b - first);
            switch (p->type) {
                case Q4_0:
                    lay_out_q4_0((const struct q4_0_group *)p->matrix + row / GROUP * n + b, group, to);
                    break;
                case Q8_0:
                    lay_out_q8_0((const struct q8_0_row *)p->matrix + row * n + b, n, group, to);
                    break;
                case Q4_K:
                    lay_out_q4_k((const struct q4_k_group *)p->matrix + row / GROUP * n_super + b / SUPER, group, to);
                    b += SUPER - 1;
                    break;
                case Q6_K:
                    lay_out_q6_k((const struct q6_k_row *)p->matrix + row * n_super + b / SUPER, n_super, group, to);
                    b += SUPER - 1;
            }
        }
    }
}

// ---------------------------------------------------------------- multiplying

#if HAS_VNNI

// Adds the products of four numbers of each row and of a vector.
INLINE ints add(ints sum, ints rows, int32_t vector) {
#if defined(__AVX512VNNI__)
    return (ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)rows, _mm512_set1_epi32(vector));
#else
    return (ints)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)rows, _mm256_set1_epi32(vector));
#endif
}

INLINE ints in_32_bits(ints sum) { return sum; }

#else

// The same in 16 bits, two of a row.
INLINE ints add(ints sum, ints rows, int32_t vector) {
    const __m256i products = _mm256_maddubs_epi16((__m256i)rows, _mm256_set1_epi32(vector));
    return (ints)_mm256_add_epi16((__m256i)sum, products);
}

INLINE ints in_32_bits(ints sum) { return (ints)_mm256_madd_epi16((__m256i)sum, _mm256_set1_epi16(1)); }

#endif

INLINE int32_t quad_of(const struct q8_block *v, int q) {
    int32_t x;
    memcpy(&x, v->numbers + 4 * q, sizeof x);
    return x;
}

// The products of quads from `first` up to `stop` of sixteen rows with n vectors, added to `sum`.
INLINE void add_quads(const int n, const quads *numbers, const struct q8_block *const *vectors, int64_t b,
                      const int first, const int stop, ints sum[][REGISTERS]) {
#pragma GCC unroll 8
    for (int q = first; q < stop; q++) {
        ints rows[REGISTERS];
        memcpy(rows, numbers[q], sizeof rows);
        for (int i = 0; i < n; i++) {
            const int32_t x = quad_of(&vectors[i][b], q);
            for (int r = 0; r < REGISTERS; r++) {
                sum[i][r] = add(sum[i][r], rows[r], x);
            }
        }
    }
}

// The products of the quads that have scale `s`, as they are without the raise.
INLINE void multiply_block(const struct kind kind, const int n, const quads *numbers,
                           const struct q8_block *const *vectors, int64_t b, const int s,
                           ints whole[][REGISTERS]) {
    const int n_quads = QUADS / kind.n_scales, at_once = HAS_VNNI ? n_quads : kind.quads_in_16;
    for (int part = 0; part < kind.n_parts; part++) {
        for (int i = 0; i < n; i++) {
            for (int r = 0; r < REGISTERS; r++) {
                const int32_t correction = kind.raised ? vectors[i][b].corrections[s] : 0;
                whole[i][r] = part ? (whole[i][r] << 4) + correction : (ints){0} + (kind.n_parts == 1 ? correction : 0);
            }
        }
#pragma GCC unroll 4
        for (int q = s * n_quads; q < (s + 1) * n_quads; q += at_once) {
            ints sum[TILE][REGISTERS];
            for (int i = 0; i < n; i++) {
                for (int r = 0; r < REGISTERS; r++) {
                    sum[i][r] = HAS_VNNI ? whole[i][r] : (ints){0};
                }
            }
            add_quads(n, numbers + part * QUADS, vectors, b, q, q + at_once, sum);
            for (int i = 0; i < n; i++) {
                for (int r = 0; r < REGISTERS; r++) {
                    whole[i][r] = HAS_VNNI ? sum[i][r] : whole[i][r] + in_32_bits(sum[i][r]);
                }
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
            multiply_block(kind, n, panel->numbers[0], vectors, b, s, whole);
            const floats_anywhere *const scales = (const floats_anywhere *)panel->scales[s];
            for (int i = 0; i < n; i++) {
                for (int r = 0; r < REGISTERS; r++) {
                    result[i][r] += __builtin_convertvector(whole[i][r], floats) * (scales[r] * vectors[i][b].scale);
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
#define CASE(number)                                                     \
    case number:                                                         \
        if (number <= most) {                                            \
            multiply(kind, number, panel, n_blocks, vectors, out);       \
        }                                                                \
        break
        switch (n) {  // known to the compiler
            CASE(1);
            CASE(2);
            CASE(3);
            CASE(4);
            CASE(5);
            CASE(6);
            CASE(7);
            CASE(8);
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
            switch (p->type) {  // known to the compiler
                case Q4_0: multiply_panel(kinds[Q4_0], TILE, p, panel, row, block, n); break;
                case Q4_K: multiply_panel(kinds[Q4_K], TILE, p, panel, row, block, n); break;
                case Q6_K: multiply_panel(kinds[Q6_K], WIDE_TILE, p, panel, row, block, n); break;
                case Q8_0: multiply_panel(kinds[Q8_0], WIDE_TILE, p, panel, row, block, n); break;
            }
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

static int64_t claim(struct matmul *m) { return atomic_fetch_add(&m->claimed, 1); }

static const struct ggml_tensor *matrix_of(const struct ggml_tensor *t) { return t->src[0]; }

static enum type type_of(const struct ggml_tensor *w) {
    switch (w->type) {
        case GGML_TYPE_Q4_K: return Q4_K;
        case GGML_TYPE_Q6_K: return Q6_K;
        case GGML_TYPE_Q8_0: return Q8_0;
        default: return Q4_0;
    }
}

// The product of the first matrix with all vectors.
static struct product product_of(const struct matmul *m, const struct ggml_tensor *dst) {
    const struct ggml_tensor *const w = matrix_of(dst), *x = dst->src[1], *ids = dst->src[2];
    return (struct product){
        .type = type_of(w),
        .matrix = w->data,
        .n_blocks = w->ne[0] / BLOCK,
        .vectors = m->vectors,
        .out = dst->data,
        .out_stride = (int64_t)(dst->nb[1] / sizeof(float)),
        .n = dst->ne[1] * dst->ne[2],
        .per_vector = ids && x->ne[1] == 1 ? ids->ne[0] : 1,
    };
}

// This thread's share of the vectors of a node.
static void quantize_share(struct matmul *m, const struct ggml_tensor *dst, int thread, int n_threads) {
    const struct ggml_tensor *const x = dst->src[1];
    const int64_t n_blocks = x->ne[0] / BLOCK, n = x->ne[1] * x->ne[2];
    const struct kind *const kind = &kinds[type_of(matrix_of(dst))];
    for (int64_t i = n * thread / n_threads; i < n * (thread + 1) / n_threads; i++) {
        const char *const row = (const char *)x->data + (size_t)(i % x->ne[1]) * x->nb[1] +
                                (size_t)(i / x->ne[1]) * x->nb[2];
        quantize((const float *)row, n_blocks, kind, m->vectors + i * n_blocks);
    }
}

// Lists the results of each expert, in their order.
static void sort_entries(struct matmul *m, const struct ggml_tensor *dst) {
    const struct ggml_tensor *const ids = dst->src[2];
    const int64_t n_experts = matrix_of(dst)->ne[2], n = ids->ne[0] * ids->ne[1];
    int64_t *const next = m->starts + 1;  // where the next of each expert goes; then where the next begins
    memset(m->starts, 0, (size_t)(n_experts + 2) * sizeof *m->starts);
#define EXPERT(i)                                                                                   \
    *(const int32_t *)((const char *)ids->data + (size_t)((i) % ids->ne[0]) * ids->nb[0] +             \
                       (size_t)((i) / ids->ne[0]) * ids->nb[1])
    for (int64_t i = 0; i < n; i++) {
        next[EXPERT(i) + 1]++;
    }
    for (int64_t e = 0; e < n_experts; e++) {
        next[e + 1] += next[e];
    }
    for (int64_t i = 0; i < n; i++) {
        m->entries[next[EXPERT(i)]++] = (int32_t)i;
    }
#undef EXPERT
}

// Computes a node. llama.cpp calls it with every one of its threads.
static void compute(struct ggml_tensor *dst, int thread, int n_threads, void *user) {
    struct matmul *const m = user;
    const struct ggml_tensor *const w = matrix_of(dst);
    if (thread == 0 && dst->src[2]) {
        sort_entries(m, dst);
    }
    quantize_share(m, dst, thread, n_threads);
    meet(m, n_threads);
    const int64_t rows = w->ne[1], claims = (rows + CLAIM * ROWS - 1) / (CLAIM * ROWS);
    const int64_t n_matrices = dst->src[2] ? w->ne[2] : 1;
    for (int64_t i = claim(m); i < claims * n_matrices; i = claim(m)) {
        const int64_t expert = i / claims, first = i % claims * CLAIM * ROWS;
        struct product p = product_of(m, dst);
        if (dst->src[2]) {
            p.matrix += (size_t)expert * w->nb[2];
            p.entries = m->entries + m->starts[expert];
            p.n = m->starts[expert + 1] - m->starts[expert];
        }
        multiply_rows(&p, first, rows - first < CLAIM * ROWS ? rows : first + CLAIM * ROWS);
    }
}

// ---------------------------------------------------------------- taking a node

static bool is_repacked(const struct ggml_tensor *w) {
    return w->buffer && strcmp(ggml_backend_buft_name(ggml_backend_buffer_get_type(w->buffer)), "CPU_REPACK") == 0;
}

static bool is_plain(const struct ggml_tensor *w) { return !w->buffer || ggml_backend_buffer_is_host(w->buffer); }

static bool is_known(const struct ggml_tensor *w) {
    const bool four_bits = w->type == GGML_TYPE_Q4_0 || w->type == GGML_TYPE_Q4_K;
    return w->ne[1] % ROWS == 0 && w->ne[3] == 1 &&
           (four_bits ? is_repacked(w) : (w->type == GGML_TYPE_Q6_K || w->type == GGML_TYPE_Q8_0) && is_plain(w));
}

static bool grow(void **p, size_t *bytes, size_t needed) {
    if (*bytes < needed) {
        free(*p);
        *p = aligned_alloc(64, (needed + 63) / 64 * 64);
        *bytes = *p ? needed : 0;
    }
    return *bytes >= needed;
}

// Whether there is memory for a node.
static bool has_room(struct matmul *m, const struct ggml_tensor *t) {
    const struct ggml_tensor *const w = t->src[0], *x = t->src[1], *ids = t->src[2];
    const size_t n_blocks = (size_t)(x->ne[1] * x->ne[2] * x->ne[0] / BLOCK);
    return grow((void **)&m->vectors, &m->vectors_bytes, n_blocks * sizeof *m->vectors) &&
           (!ids || (grow((void **)&m->entries, &m->entries_bytes, (size_t)ggml_nelements(ids) * sizeof *m->entries) &&
                     grow((void **)&m->starts, &m->starts_bytes, (size_t)(w->ne[2] + 2) * sizeof *m->starts)));
}

void take_matmul(struct matmul *m, struct ggml_tensor *t) {
    if (!m || (t->op != GGML_OP_MUL_MAT && t->op != GGML_OP_MUL_MAT_ID)) {
        return;
    }
    const struct ggml_tensor *const w = t->src[0], *x = t->src[1];
    const bool experts = t->op == GGML_OP_MUL_MAT_ID;
    const bool many = experts ? x->ne[2] > 1 && t->ne[1] * t->ne[2] >= FEWEST : x->ne[1] >= FEWEST && x->ne[2] == 1 && w->ne[2] == 1;
    if (many && x->ne[3] == 1 && x->type == GGML_TYPE_F32 && x->nb[0] == sizeof(float) &&
        ggml_is_contiguous(t) && is_known(w) && has_room(m, t)) {
        take_node(t, &m->params);
    }
}

struct matmul *new_matmul(void) {
    struct matmul *const m = calloc(1, sizeof *m);
    if (m && !write_node_params(&m->params, compute, m)) {
        free(m);
        return NULL;
    }
    return m;
}

void free_matmul(struct matmul *m) {
    if (m) {
        free(m->vectors);
        free(m->entries);
        free(m->starts);
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
