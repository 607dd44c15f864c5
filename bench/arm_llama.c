// Multiplies a matrix with vectors by llama.cpp's kernels, between two marks: for bench/arm.py, which counts.
//
// Usage: arm_llama TYPE ROWS WIDTH VECTORS ROW_BYTES. Knows: which kernel llama.cpp 's CPU backend chooses for a
// type on ARM, and how it loops over rows (repack.cpp, ggml_repack_get_optimal_repack_type; ggml-cpu.c,
// ggml_compute_forward_mul_mat_one_chunk). Numbers are arbitrary: no kernel branches on them.

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arm_marks.h"

typedef void vec_dot(int width, float *out, size_t, const void *row, size_t, const void *vector, size_t, int n);
typedef void repacked(int width, float *out, size_t stride, const void *rows, const void *vectors, int n_vectors,
                      int n_rows);

struct kernel {
    const char *type;
    vec_dot *dot;             // of a row and a vector; NULL if the type is repacked
    repacked *gemv, *gemm;    // of repacked rows with one vector, and with four and more
    size_t vector_bytes_per_256;
};

enum { Q8_0_BYTES = 8 * 34, Q8_K_BYTES = 292 };

#define DOT(TYPE, name, bytes) {TYPE, name, NULL, NULL, bytes}
#define REPACKED(TYPE, name, bytes) {TYPE, NULL, ggml_gemv_##name, ggml_gemm_##name, bytes}
#define DECLARE(name) repacked ggml_gemv_##name, ggml_gemm_##name

vec_dot ggml_vec_dot_q4_0_q8_0, ggml_vec_dot_q5_0_q8_0, ggml_vec_dot_q8_0_q8_0, ggml_vec_dot_iq4_nl_q8_0,
    ggml_vec_dot_mxfp4_q8_0, ggml_vec_dot_q2_K_q8_K, ggml_vec_dot_q3_K_q8_K, ggml_vec_dot_q4_K_q8_K,
    ggml_vec_dot_q5_K_q8_K, ggml_vec_dot_q6_K_q8_K, ggml_vec_dot_iq2_xxs_q8_K, ggml_vec_dot_iq2_xs_q8_K,
    ggml_vec_dot_iq2_s_q8_K, ggml_vec_dot_iq3_xxs_q8_K, ggml_vec_dot_iq3_s_q8_K, ggml_vec_dot_iq4_xs_q8_K;
#if defined(__ARM_FEATURE_MATMUL_INT8)
DECLARE(q4_0_4x8_q8_0);
DECLARE(q8_0_4x8_q8_0);
DECLARE(q4_K_8x8_q8_K);
DECLARE(q5_K_8x8_q8_K);
DECLARE(q6_K_8x8_q8_K);
#else
DECLARE(q4_0_4x4_q8_0);
DECLARE(q8_0_4x4_q8_0);
DECLARE(q4_K_8x4_q8_K);
DECLARE(q5_K_8x4_q8_K);
DECLARE(q6_K_8x4_q8_K);
#endif
DECLARE(iq4_nl_4x4_q8_0);
DECLARE(mxfp4_4x4_q8_0);

static const struct kernel kernels[] = {
#if defined(__ARM_FEATURE_MATMUL_INT8)
    REPACKED("Q4_0", q4_0_4x8_q8_0, Q8_0_BYTES),
    REPACKED("Q8_0", q8_0_4x8_q8_0, Q8_0_BYTES),
    REPACKED("Q4_K", q4_K_8x8_q8_K, Q8_K_BYTES),
    REPACKED("Q5_K", q5_K_8x8_q8_K, Q8_K_BYTES),
    REPACKED("Q6_K", q6_K_8x8_q8_K, Q8_K_BYTES),
#elif defined(__ARM_FEATURE_DOTPROD)
    REPACKED("Q4_0", q4_0_4x4_q8_0, Q8_0_BYTES),
    REPACKED("Q8_0", q8_0_4x4_q8_0, Q8_0_BYTES),
    REPACKED("Q4_K", q4_K_8x4_q8_K, Q8_K_BYTES),
    REPACKED("Q5_K", q5_K_8x4_q8_K, Q8_K_BYTES),
    REPACKED("Q6_K", q6_K_8x4_q8_K, Q8_K_BYTES),
#endif
#if defined(__ARM_FEATURE_DOTPROD)
    REPACKED("IQ4_NL", iq4_nl_4x4_q8_0, Q8_0_BYTES),
    REPACKED("MXFP4", mxfp4_4x4_q8_0, Q8_0_BYTES),
#endif
    // The first kernel of a type is taken: these are of types that are not repacked.
    DOT("Q4_0", ggml_vec_dot_q4_0_q8_0, Q8_0_BYTES),
    DOT("Q5_0", ggml_vec_dot_q5_0_q8_0, Q8_0_BYTES),
    DOT("Q8_0", ggml_vec_dot_q8_0_q8_0, Q8_0_BYTES),
    DOT("IQ4_NL", ggml_vec_dot_iq4_nl_q8_0, Q8_0_BYTES),
    DOT("MXFP4", ggml_vec_dot_mxfp4_q8_0, Q8_0_BYTES),
    DOT("Q2_K", ggml_vec_dot_q2_K_q8_K, Q8_K_BYTES),
    DOT("Q3_K", ggml_vec_dot_q3_K_q8_K, Q8_K_BYTES),
    DOT("Q4_K", ggml_vec_dot_q4_K_q8_K, Q8_K_BYTES),
    DOT("Q5_K", ggml_vec_dot_q5_K_q8_K, Q8_K_BYTES),
    DOT("Q6_K", ggml_vec_dot_q6_K_q8_K, Q8_K_BYTES),
    DOT("IQ2_XXS", ggml_vec_dot_iq2_xxs_q8_K, Q8_K_BYTES),
    DOT("IQ2_XS", ggml_vec_dot_iq2_xs_q8_K, Q8_K_BYTES),
    DOT("IQ2_S", ggml_vec_dot_iq2_s_q8_K, Q8_K_BYTES),
    DOT("IQ3_XXS", ggml_vec_dot_iq3_xxs_q8_K, Q8_K_BYTES),
    DOT("IQ3_S", ggml_vec_dot_iq3_s_q8_K, Q8_K_BYTES),
    DOT("IQ4_XS", ggml_vec_dot_iq4_xs_q8_K, Q8_K_BYTES),
};

// Tables that ggml fills when it starts; their numbers do not matter here.
float ggml_table_f32_f16[1 << 16], ggml_table_f32_e8m0_half[1 << 8], ggml_table_f32_ue4m3[1 << 8];

enum { TILE = 16 };  // of rows and of vectors, between which llama.cpp alternates

static int less(int a, int b) { return a < b ? a : b; }

static void multiply_by_dots(vec_dot *dot, int n_rows, int width, int n, const char *rows, size_t row_bytes,
                             const char *vectors, size_t vector_bytes, float *out) {
    for (int v0 = 0; v0 < n; v0 += TILE) {
        for (int r0 = 0; r0 < n_rows; r0 += TILE) {
            for (int v = v0; v < less(v0 + TILE, n); v++) {
                float sums[TILE];
                for (int r = r0; r < less(r0 + TILE, n_rows); r++) {
                    dot(width, &sums[r - r0], 0, rows + (size_t)r * row_bytes, 0,
                        vectors + (size_t)v * vector_bytes, 0, 1);
                }
                memcpy(out + (size_t)v * n_rows + r0, sums, (less(r0 + TILE, n_rows) - r0) * sizeof *out);
            }
        }
    }
}

static void multiply(const struct kernel *k, int n_rows, int width, int n, const char *rows, size_t row_bytes,
                     const char *vectors, float *out) {
    const size_t vector_bytes = (size_t)width / 256 * k->vector_bytes_per_256;
    const int n_gemm = n - n % 4;
    if (k->dot) {
        multiply_by_dots(k->dot, n_rows, width, n, rows, row_bytes, vectors, vector_bytes, out);
        return;
    }
    if (n_gemm) {
        k->gemm(width, out, n_rows, rows, vectors, n_gemm, n_rows);
    }
    for (int v = n_gemm; v < n; v++) {
        k->gemv(width, out + (size_t)v * n_rows, n_rows, rows, vectors + v * vector_bytes, 1, n_rows);
    }
}

int main(int argc, char **argv) {
    if (argc != 6) {
        return 2;
    }
    const int n_rows = atoi(argv[2]), width = atoi(argv[3]), n = atoi(argv[4]);
    const size_t row_bytes = (size_t)atoi(argv[5]);
    char *const rows = calloc((size_t)n_rows, row_bytes), *const vectors = calloc((size_t)n, 2 * (size_t)width);
    float *const out = calloc((size_t)n * (size_t)n_rows, sizeof *out);
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) {
        if (strcmp(kernels[i].type, argv[1]) == 0) {
            begin_measured();
            multiply(&kernels[i], n_rows, width, n, rows, row_bytes, vectors, out);
            end_measured();
            puts(kernels[i].dot ? "rows" : "repacked");
            return 0;
        }
    }
    return 3;
}
