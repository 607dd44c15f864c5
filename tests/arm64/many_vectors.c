// Multiplies matrices of every type and layout with vectors by the kernels for many vectors and for few, and compares
// each result with scalar C that adds in the same order. Writes what differs; exits with 0 if nothing does.

#include <stdio.h>

#include "arm_matmul_kernel.h"
#include "arm_matvec.h"
#include "reference.h"

enum { N_BLOCKS = 40, WIDTH = N_BLOCKS * QUANT_BLOCK, MOST_ROWS = 40, MOST_VECTORS = 9, MOST_ROW_BYTES = 2048 };

static uint32_t next_random(void) {
    static uint64_t state = 7;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

// ---------------------------------------------------------------- the expected results

// Multiplies a row with a vector.
static float expected(enum ggml_type type, const uint8_t *row, const struct activation_block *v) {
    const bool is_super = arm_types[type].has_superblocks;
    float result = 0;
    for (int b = 0; b < N_BLOCKS; b += is_super ? SUPERBLOCK : 1) {
        const struct activation_superblock *const s = superblock_of(v, b / SUPERBLOCK);
        result = added(result, type, is_super, row, is_super ? s->numbers : v[b].numbers,
                       is_super ? s->scale : v[b].scale);
        row += arm_types[type].bytes;
    }
    return result;
}

// ---------------------------------------------------------------- matrices and vectors

// Fills a row with random numbers, whose scales are neither infinite nor far apart.
static void fill_row(enum ggml_type type, uint8_t *row) {
    const int bytes = arm_types[type].bytes, scale_at = arm_types[type].scale;
    const int n = arm_types[type].has_superblocks ? N_BLOCKS / SUPERBLOCK : N_BLOCKS;
    for (int i = 0; i < n; i++, row += bytes) {
        for (int j = 0; j < bytes; j++) {
            row[j] = (uint8_t)next_random();
        }
        for (int j = 0; j < 2; j++) {
            const __fp16 x = (__fp16)((float)(next_random() % 2000) / 1000.0f - (j ? 0.0f : 1.0f));
            if (j == 0 || arm_panel_types[type].n_minima) {
                memcpy(row + scale_at + 2 * j, &x, 2);
            }
        }
        if (type == GGML_TYPE_MXFP4) {
            row[0] = (uint8_t)(120 + next_random() % 12);
        }
    }
}

// Lays the field of `size` bytes that begins at `at` in eight or four rows side by side, `together` of each in turn.
static void lay_field(uint8_t *const *rows, int n_rows, int at, int size, int together, uint8_t **to) {
    for (int i = 0; i < size; i += together) {
        for (int r = 0; r < n_rows; r++, *to += together) {
            memcpy(*to, rows[r] + at + i, (size_t)together);
        }
    }
}

// Lays the factors of six bits of eight rows side by side, as llama.cpp does: each block's as a row has those of eight.
static void lay_six_bits(uint8_t *const *rows, uint8_t **to) {
    for (int b = 0; b < SUPERBLOCK; b++, *to += 12) {
        int f[8], m[8];
        for (int r = 0; r < 8; r++) {
            f[r] = six_bits_at(rows[r] + 4, b, false);
            m[r] = six_bits_at(rows[r] + 4, b, true);
        }
        for (int r = 0; r < 4; r++) {
            (*to)[r] = (uint8_t)(f[r] | f[r + 4] >> 4 << 6);
            (*to)[4 + r] = (uint8_t)(m[r] | m[r + 4] >> 4 << 6);
            (*to)[8 + r] = (uint8_t)((f[r + 4] & 15) | (m[r + 4] & 15) << 4);
        }
    }
}

// Lays a block or a superblock of some rows side by side as llama.cpp repacks it. Returns where the next begins.
static uint8_t *lay_group(enum ggml_type type, uint8_t *const *rows, int n_rows, int together, uint8_t *to) {
    switch (type) {
        case GGML_TYPE_Q4_0:
        case GGML_TYPE_IQ4_NL:
        case GGML_TYPE_Q8_0: {
            const int size = type == GGML_TYPE_Q8_0 ? 32 : 16;
            lay_field(rows, n_rows, 0, 2, 2, &to);
            uint8_t *const begin = to;
            lay_field(rows, n_rows, 2, size, together, &to);
            for (uint8_t *p = begin; type == GGML_TYPE_Q4_0 && p < to; p++) {
                *p ^= 0x88;
            }
            return to;
        }
        case GGML_TYPE_MXFP4:
            lay_field(rows, n_rows, 0, 1, 1, &to);
            lay_field(rows, n_rows, 1, 16, together, &to);
            return to;
        case GGML_TYPE_Q6_K:
            lay_field(rows, n_rows, 208, 2, 2, &to);
            lay_field(rows, n_rows, 192, 16, 1, &to);
            lay_field(rows, n_rows, 0, 128, together, &to);
            lay_field(rows, n_rows, 128, 64, together, &to);
            return to;
        default:  // Q4_K and Q5_K
            lay_field(rows, n_rows, 0, 2, 2, &to);
            lay_field(rows, n_rows, 2, 2, 2, &to);
            lay_six_bits(rows, &to);
            if (type == GGML_TYPE_Q5_K) {
                lay_field(rows, n_rows, 16, 32, together, &to);
            }
            lay_field(rows, n_rows, type == GGML_TYPE_Q5_K ? 48 : 16, 128, together, &to);
            return to;
    }
}

static void lay_out(enum ggml_type type, const uint8_t *rows, int n_rows, int row_bytes, int together, uint8_t *to) {
    const int in_group = arm_types[type].group_rows, bytes = arm_types[type].bytes;
    for (int row = 0; row < n_rows; row += in_group) {
        for (int at = 0; at < row_bytes; at += bytes) {
            uint8_t *of_group[8];
            for (int r = 0; r < in_group; r++) {
                of_group[r] = (uint8_t *)rows + (row + r) * row_bytes + at;
            }
            to = lay_group(type, of_group, in_group, together, to);
        }
    }
}

static void make_vectors(enum ggml_type type, int n, struct activation_block *out) {
    for (int i = 0; i < n; i++, out += N_BLOCKS) {
        float x[WIDTH];
        for (int j = 0; j < WIDTH; j++) {
            x[j] = ((float)(next_random() % 20001) - 10000.0f) / 3000.0f * (next_random() % 16 ? 1.0f : 9.0f);
        }
        quantize_vector(type, x, N_BLOCKS, out);
    }
}

// ---------------------------------------------------------------- comparing

static int compare(enum ggml_type type, enum row_layout layout, int n_rows, int n, bool has_entries) {
    static uint8_t rows[MOST_ROWS * MOST_ROW_BYTES], laid[MOST_ROWS * MOST_ROW_BYTES];
    static struct activation_block vectors[MOST_VECTORS * N_BLOCKS];
    static float out[MOST_VECTORS][MOST_ROWS];
    const int blocks = arm_types[type].has_superblocks ? N_BLOCKS / SUPERBLOCK : N_BLOCKS;
    const int row_bytes = blocks * arm_types[type].bytes;
    for (int r = 0; r < n_rows; r++) {
        fill_row(type, rows + r * row_bytes);
    }
    make_vectors(type, n, vectors);
    if (layout != ROW_BY_ROW) {
        lay_out(type, rows, n_rows, row_bytes, layout == ROWS_BY_FOUR_BYTES ? 4 : 8, laid);
    }
    int32_t entries[MOST_VECTORS];
    for (int i = 0; i < n; i++) {
        entries[i] = n - 1 - i;
    }
    const struct matrix_product p = {
        .matrix = {.type = type,
                   .layout = layout,
                   .data = (const char *)(layout == ROW_BY_ROW ? rows : laid),
                   .row_bytes = (size_t)row_bytes,
                   .n_rows = n_rows,
                   .n_blocks = N_BLOCKS},
        .vectors = vectors,
        .out = out[0],
        .out_stride = MOST_ROWS,
        .entries = has_entries ? entries : NULL,
        .n = n,
        .per_vector = has_entries ? 2 : 1,
    };
    multiply_rows(&p, 0, n_rows);
    int n_unequal = 0;
    for (int i = 0; i < n; i++) {
        const struct activation_block *const v = vectors + i / p.per_vector * N_BLOCKS;
        float few[MOST_ROWS], *to = few;
        multiply_arm(1, &p.matrix, &v, &to, 0, n_rows);
        for (int r = 0; r < n_rows; r++) {
            const float all[3] = {expected(type, rows + r * row_bytes, v), out[i][r], few[r]};
            if ((memcmp(&all[0], &all[1], sizeof *all) || memcmp(&all[0], &all[2], sizeof *all)) && !n_unequal++) {
                printf("type %d, layout %d, %d rows, %d vectors: row %d of vector %d: %a, few vectors %a, not %a\n",
                       type, layout, n_rows, n, r, i, (double)all[1], (double)all[2], (double)all[0]);
            }
        }
    }
    return n_unequal;
}

static int compare_type(enum ggml_type type) {
    int n_unequal = 0;
    for (int n = 1; n <= MOST_VECTORS; n += n < 5 ? 1 : 4) {
        n_unequal += compare(type, ROW_BY_ROW, n % 2 ? 21 : 32, n, n == 4);
        for (enum row_layout layout = ROWS_BY_FOUR_BYTES; HAS_ARM_DOT && layout <= ROWS_BY_EIGHT_BYTES; layout++) {
            const int group_rows = arm_types[type].group_rows;
            const bool is_known = layout == ROWS_BY_FOUR_BYTES || (type != GGML_TYPE_IQ4_NL && type != GGML_TYPE_MXFP4);
            if (group_rows && is_known) {
                n_unequal += compare(type, layout, 16 + group_rows, n, n == 4);
            }
        }
    }
    return n_unequal;
}

int main(void) {
    int n_unequal = 0;
#define CASE(type) n_unequal += compare_type(type)
    EACH_ARM_TYPE(CASE);
    printf("%d unequal\n", n_unequal);
    return n_unequal != 0;
}
