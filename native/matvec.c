// Matrices of Q4_0 times few vectors, in place of llama.cpp's.
//
// llama.cpp repacks Q4_0 matrices in groups of eight rows, and where it was written multiplied them at
// 17 to 20 GB/s a core while a core reads 28: what should wait for memory computes. With 512-bit vectors
// and the 8-bit products of AVX-512 VNNI it waits for memory: docs/decisions/0013. The activations are
// rounded to 8 bits as llama.cpp rounds them, so results differ by the order of sums alone.

#include "matvec.h"

#include <stdbool.h>

#include "nodes.h"
#include "numbers.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__F16C__)

#include <ggml-backend.h>
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    BLOCK = 32,        // numbers with a scale
    GROUP = 8,         // rows that lie together
    MOST_VECTORS = 8,  // more are a matrix, which llama.cpp multiplies well
    MAX_WIDTH = 32768,
    EVEN_LANES = 0x5555
};

// Eight rows' blocks, as llama.cpp repacks them: of each byte the upper bits of both halves are flipped;
// byte 8 i + j is row i's j-th, byte 64 + 8 i + j its (8 + j)-th.
struct q4_group {
    uint16_t scales[GROUP];
    uint8_t bytes[GROUP * BLOCK / 2];
};

// A block of a vector.
struct q8_block {
    float scale;
    int32_t correction;  // -8 times the sum of all numbers: a weight w is stored as w + 8
    int8_t numbers[BLOCK];
};

static struct node_params params;
static bool is_on;

static void quantize(const float *x, struct q8_block *out, int64_t n_blocks) {
    for (int64_t b = 0; b < n_blocks; b++, x += BLOCK) {
        float largest = 0;
        for (int i = 0; i < BLOCK; i++) {
            const float a = fabsf(x[i]);
            largest = a > largest ? a : largest;
        }
        const float d = largest / 127.0f, inverse = d != 0 ? 1.0f / d : 0.0f;
        int32_t sum = 0;
        for (int i = 0; i < BLOCK; i++) {
            const int32_t q = (int32_t)rintf(x[i] * inverse);
            out[b].numbers[i] = (int8_t)q;
            sum += q;
        }
        out[b].scale = _cvtsh_ss(_cvtss_sh(d, _MM_FROUND_TO_NEAREST_INT));
        out[b].correction = -8 * sum;
    }
}

// Eight rows times n vectors: out[i][8].
INLINE void multiply_group(const int n, const struct q4_group *rows, const struct q8_block *const *vectors,
                           int64_t n_blocks, float *const *out) {
    const __m512i flip = _mm512_set1_epi8((char)0x88), half = _mm512_set1_epi8(0x0f);
    const __m512i twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    __m512 sum[MOST_VECTORS];
    for (int i = 0; i < n; i++) {
        sum[i] = _mm512_setzero_ps();
    }
    for (int64_t b = 0; b < n_blocks; b++) {
        const __m512i first = _mm512_loadu_si512(rows[b].bytes), second = _mm512_loadu_si512(rows[b].bytes + 64);
        // (byte ^ flip) & half, of the lower and of the upper halves
        const __m512i a = _mm512_ternarylogic_epi32(first, flip, half, 0x28);
        const __m512i c = _mm512_ternarylogic_epi32(second, flip, half, 0x28);
        const __m512i e = _mm512_ternarylogic_epi32(_mm512_srli_epi16(first, 4), flip, half, 0x28);
        const __m512i g = _mm512_ternarylogic_epi32(_mm512_srli_epi16(second, 4), flip, half, 0x28);
        const __m256 scales = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)rows[b].scales));
        const __m512 both = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(scales));
        for (int i = 0; i < n; i++) {
            const struct q8_block *const v = &vectors[i][b];
            int64_t x[4];
            memcpy(x, v->numbers, sizeof x);
            __m512i whole = _mm512_maskz_set1_epi32(EVEN_LANES, v->correction);
            whole = _mm512_dpbusd_epi32(whole, a, _mm512_set1_epi64(x[0]));
            whole = _mm512_dpbusd_epi32(whole, c, _mm512_set1_epi64(x[1]));
            whole = _mm512_dpbusd_epi32(whole, e, _mm512_set1_epi64(x[2]));
            whole = _mm512_dpbusd_epi32(whole, g, _mm512_set1_epi64(x[3]));
            const __m512 scale = _mm512_mul_ps(both, _mm512_set1_ps(v->scale));
            sum[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole), scale, sum[i]);
        }
    }
    const __m512i order = _mm512_set_epi32(15, 13, 11, 9, 7, 5, 3, 1, 14, 12, 10, 8, 6, 4, 2, 0);
    for (int i = 0; i < n; i++) {
        const __m512 apart = _mm512_permutexvar_ps(order, sum[i]);
        const __m256 low = _mm512_castps512_ps256(apart);
        const __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(apart), 1));
        _mm256_storeu_ps(out[i], _mm256_add_ps(low, high));
    }
}

// Groups `first` up to `stop` of a matrix times n vectors; out[i]: of all rows.
INLINE void multiply(const int n, const char *matrix, int64_t n_blocks, const struct q8_block *const *vectors,
                     float *const *out, int64_t first, int64_t stop) {
    for (int64_t i = first; i < stop; i++) {
        const struct q4_group *const rows =
            (const struct q4_group *)(matrix + (size_t)(i * n_blocks) * sizeof(struct q4_group));
        float *to[MOST_VECTORS];
        for (int v = 0; v < n; v++) {
            to[v] = out[v] + i * GROUP;
        }
        multiply_group(n, rows, vectors, n_blocks, to);
    }
}

static const float *row_of(const struct ggml_tensor *t, int64_t i) {
    return (const float *)((const char *)t->data + (size_t)i * t->nb[1]);
}

// A matrix times up to eight vectors. llama.cpp calls it with every one of its threads.
static void multiply_all(struct ggml_tensor *dst, int thread, int n_threads) {
    const struct ggml_tensor *const w = dst->src[0], *x = dst->src[1];
    const int64_t n_blocks = w->ne[0] / BLOCK, n_groups = w->ne[1] / GROUP, n = x->ne[1];
    const int64_t first = n_groups * thread / n_threads, stop = n_groups * (thread + 1) / n_threads;
    struct q8_block blocks[n * n_blocks];
    const struct q8_block *vectors[MOST_VECTORS];
    float *out[MOST_VECTORS];
    for (int64_t i = 0; i < n; i++) {
        quantize(row_of(x, i), blocks + i * n_blocks, n_blocks);
        vectors[i] = blocks + i * n_blocks;
        out[i] = (float *)((char *)dst->data + (size_t)i * dst->nb[1]);
    }
#define CASE(n) \
    case n: multiply(n, w->data, n_blocks, vectors, out, first, stop); break
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

// The matrices of some experts, each times a vector of one token.
static void multiply_experts(struct ggml_tensor *dst, int thread, int n_threads) {
    const struct ggml_tensor *const w = dst->src[0], *x = dst->src[1], *ids = dst->src[2];
    const int64_t n_blocks = w->ne[0] / BLOCK, n_groups = w->ne[1] / GROUP, n_experts = ids->ne[0];
    const int64_t all = n_groups * n_experts;
    const int64_t first = all * thread / n_threads, stop = all * (thread + 1) / n_threads;
    struct q8_block blocks[n_blocks];
    const struct q8_block *const vector = blocks;
    int64_t quantized = -1;
    for (int64_t i = first; i < stop;) {
        const int64_t expert = i / n_groups, begin = i % n_groups;
        const int64_t end = stop - i < n_groups - begin ? begin + stop - i : n_groups;
        const int32_t id = *(const int32_t *)((const char *)ids->data + (size_t)expert * ids->nb[0]);
        if (quantized != expert % x->ne[1]) {
            quantized = expert % x->ne[1];
            quantize(row_of(x, quantized), blocks, n_blocks);
        }
        float *const out = (float *)((char *)dst->data + (size_t)expert * dst->nb[1]);
        multiply(1, (const char *)w->data + (size_t)id * w->nb[2], n_blocks, &vector, &out, begin, end);
        i += end - begin;
    }
}

static void compute(struct ggml_tensor *dst, int thread, int n_threads, void *user) {
    (void)user;
    if (dst->src[2]) {
        multiply_experts(dst, thread, n_threads);
    } else {
        multiply_all(dst, thread, n_threads);
    }
}

// ---------------------------------------------------------------- taking a node

static bool is_repacked(const struct ggml_tensor *w) {
    return w->type == GGML_TYPE_Q4_0 && w->ne[1] % GROUP == 0 && w->ne[3] == 1 && w->buffer &&
           strcmp(ggml_backend_buft_name(ggml_backend_buffer_get_type(w->buffer)), "CPU_REPACK") == 0;
}

void take_matvec(struct ggml_tensor *t) {
    if (!is_on || (t->op != GGML_OP_MUL_MAT && t->op != GGML_OP_MUL_MAT_ID)) {
        return;
    }
    const struct ggml_tensor *const w = t->src[0], *x = t->src[1];
    const bool experts = t->op == GGML_OP_MUL_MAT_ID;
    const bool few = experts ? x->ne[2] == 1 : x->ne[1] <= MOST_VECTORS && x->ne[2] == 1 && w->ne[2] == 1;
    if (few && x->ne[1] > 0 && x->ne[3] == 1 && x->type == GGML_TYPE_F32 && x->nb[0] == sizeof(float) &&
        w->ne[0] <= MAX_WIDTH && is_repacked(w)) {
        take_node(t, &params);
    }
}

EXPORT bool dure_matvec_start(void) { return is_on = write_node_params(&params, compute, NULL); }

#else

void take_matvec(struct ggml_tensor *t) { (void)t; }

EXPORT bool dure_matvec_start(void) { return false; }

#endif
