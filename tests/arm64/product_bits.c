// Multiplies matrices of every type and layout with vectors by the kernel for many vectors, and compares each result
// with plain C that adds in the same order. Writes what differs; exits with 0 if nothing does.

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "arm_matmul_kernel.h"

enum { N_BLOCKS = 40, WIDTH = N_BLOCKS * QUANT_BLOCK, MOST_ROWS = 40, MOST_VECTORS = 9, MOST_ROW_BYTES = 2048 };

// What 32 numbers of a row are worth, as plain C reads them from the row: scale * factor * number - minimum.
struct plain_block {
    float scale, minimum_scale;
    int factors[2], minima[2], numbers[QUANT_BLOCK];
};

static uint32_t next_random(void) {
    static uint64_t state = 7;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

static float half_at(const uint8_t *p) {
    __fp16 x;
    memcpy(&x, p, 2);
    return (float)x;
}

static const int iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static const int mxfp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// ---------------------------------------------------------------- rows, as plain C reads them

static void read_small_block(enum ggml_type type, const uint8_t *p, struct plain_block *out) {
    const int bytes_at = type == GGML_TYPE_MXFP4 ? 1 : type == GGML_TYPE_Q5_0 ? 6 : 2;
    out->scale = type == GGML_TYPE_MXFP4 ? ldexpf(1, p[0] - 128) : half_at(p);
    for (int j = 0; j < QUANT_BLOCK; j++) {
        const int nibble = p[bytes_at + j % 16] >> (j < 16 ? 0 : 4) & 15;
        out->numbers[j] = type == GGML_TYPE_Q8_0     ? (int8_t)p[2 + j]
                          : type == GGML_TYPE_Q4_0   ? nibble - 8
                          : type == GGML_TYPE_Q5_0   ? (nibble | (p[2 + j / 8] >> j % 8 & 1) << 4) - 16
                          : type == GGML_TYPE_IQ4_NL ? iq4[nibble]
                                                     : mxfp4[nibble];
    }
}

// Factor and minimum of six bits of block b.
static void read_six_bits(const uint8_t *p, int b, int *factor, int *minimum) {
    *factor = b < 4 ? p[b] & 63 : (p[b + 4] & 15) | (p[b - 4] >> 6) << 4;
    *minimum = b < 4 ? p[b + 4] & 63 : p[b + 4] >> 4 | (p[b] >> 6) << 4;
}

static void read_super_block(enum ggml_type type, const uint8_t *p, int b, struct plain_block *out) {
    for (int j = 0; j < QUANT_BLOCK; j++) {
        int *const to = &out->numbers[j];
        switch (type) {
            case GGML_TYPE_Q2_K: *to = p[16 + b / 4 * 32 + j] >> 2 * (b % 4) & 3; break;
            case GGML_TYPE_Q3_K:
                *to = (p[32 + b / 4 * 32 + j] >> 2 * (b % 4) & 3) - (p[j] >> b & 1 ? 0 : 4);
                break;
            case GGML_TYPE_Q4_K: *to = p[16 + b / 2 * 32 + j] >> 4 * (b % 2) & 15; break;
            case GGML_TYPE_Q5_K:
                *to = (p[48 + b / 2 * 32 + j] >> 4 * (b % 2) & 15) | (p[16 + j] >> b & 1) << 4;
                break;
            case GGML_TYPE_Q6_K:
                *to = (p[b / 4 * 64 + b % 2 * 32 + j] >> (b % 4 < 2 ? 0 : 4) & 15) |
                      (p[128 + b / 4 * 32 + j] >> 2 * (b % 4) & 3) << 4;
                *to -= 32;
                break;
            default: *to = iq4[p[8 + 16 * b + j % 16] >> (j < 16 ? 0 : 4) & 15];
        }
    }
    const int scale_at = type == GGML_TYPE_Q2_K ? 80 : type == GGML_TYPE_Q3_K ? 108 : type == GGML_TYPE_Q6_K ? 208 : 0;
    out->scale = half_at(p + scale_at);
    out->minimum_scale = half_at(p + scale_at + 2);
    for (int s = 0; s < 2; s++) {
        const int i = 2 * b + s;
        int *const factor = &out->factors[s], *const minimum = &out->minima[s];
        *minimum = 0;
        switch (type) {
            case GGML_TYPE_Q2_K:
                *factor = p[i] & 15;
                *minimum = p[i] >> 4;
                break;
            case GGML_TYPE_Q3_K:
                *factor = (p[96 + i % 8] >> (i < 8 ? 0 : 4) & 15) | (p[104 + i % 4] >> 2 * (i / 4) & 3) << 4;
                *factor -= 32;
                break;
            case GGML_TYPE_Q6_K: *factor = (int8_t)p[192 + i]; break;
            case GGML_TYPE_IQ4_XS:
                *factor = (p[4 + b / 2] >> 4 * (b % 2) & 15) | (p[2 + b / 4] >> 2 * (b % 4) & 3) << 4;
                *factor -= 32;
                break;
            default: read_six_bits(p + 4, b, factor, minimum);
        }
    }
}

// ---------------------------------------------------------------- the expected results

static float expected_of_blocks(enum ggml_type type, const uint8_t *row, const struct activation_block *v) {
    float result = 0;
    for (int b = 0; b < N_BLOCKS; b++) {
        struct plain_block w;
        read_small_block(type, row + b * arm_panel_types[type].bytes, &w);
        int whole = 0;
        for (int j = 0; j < QUANT_BLOCK; j++) {
            whole += w.numbers[j] * v[b].numbers[j];
        }
        const float scaled = (float)whole * w.scale;
        result = fmaf(scaled, v[b].scale, result);
    }
    return result;
}

static float expected_of_superblocks(enum ggml_type type, const uint8_t *row, const struct activation_block *v) {
    float result = 0;
    for (int s = 0; s < N_BLOCKS / SUPERBLOCK; s++) {
        const int8_t *const x = superblock_of(v, s)->numbers;
        struct plain_block w;
        int whole = 0, minima = 0;
        for (int b = 0; b < SUPERBLOCK; b++) {
            read_super_block(type, row + s * arm_panel_types[type].bytes, b, &w);
            for (int j = 0; j < QUANT_BLOCK; j++) {
                whole += w.factors[j / 16] * w.numbers[j] * x[QUANT_BLOCK * b + j];
                minima += w.minima[j / 16] * x[QUANT_BLOCK * b + j];
            }
        }
        const float scale = w.scale * superblock_of(v, s)->scale;
        result = fmaf((float)whole, scale, result);
        if (arm_panel_types[type].n_minima) {
            const float minimum_scale = w.minimum_scale * superblock_of(v, s)->scale;
            result = fmaf(-(float)minima, minimum_scale, result);
        }
    }
    return result;
}

// ---------------------------------------------------------------- matrices and vectors

// Fills a row with random numbers, whose scales are neither infinite nor far apart.
static void fill_row(enum ggml_type type, uint8_t *row) {
    const int bytes = arm_panel_types[type].bytes, scale_at = arm_panel_types[type].scale;
    const int n = arm_panel_types[type].is_super ? N_BLOCKS / SUPERBLOCK : N_BLOCKS;
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
            read_six_bits(rows[r] + 4, b, &f[r], &m[r]);
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
    const int in_group = arm_panel_types[type].group_rows, bytes = arm_panel_types[type].bytes;
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
        quantize_activations(x, N_BLOCKS, arm_panel_types[type].is_super, -1, out);
        for (int b = 0; arm_panel_types[type].is_super && b < N_BLOCKS; b += SUPERBLOCK) {
            pack_superblock(out + b, 0, type == GGML_TYPE_Q2_K ? 16 : QUANT_BLOCK);
        }
    }
}

// ---------------------------------------------------------------- comparing

static int compare(enum ggml_type type, enum row_layout layout, int n_rows, int n, bool has_entries) {
    static uint8_t rows[MOST_ROWS * MOST_ROW_BYTES], laid[MOST_ROWS * MOST_ROW_BYTES];
    static struct activation_block vectors[MOST_VECTORS * N_BLOCKS];
    static float out[MOST_VECTORS][MOST_ROWS];
    const int blocks = arm_panel_types[type].is_super ? N_BLOCKS / SUPERBLOCK : N_BLOCKS;
    const int row_bytes = blocks * arm_panel_types[type].bytes;
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
        for (int r = 0; r < n_rows; r++) {
            const struct activation_block *const v = vectors + i / p.per_vector * N_BLOCKS;
            const float expected = arm_panel_types[type].is_super
                                       ? expected_of_superblocks(type, rows + r * row_bytes, v)
                                       : expected_of_blocks(type, rows + r * row_bytes, v);
            if (memcmp(&expected, &out[i][r], sizeof expected) != 0 && n_unequal++ == 0) {
                printf("type %d, layout %d, %d rows, %d vectors: row %d of vector %d: %a, not %a\n", type, layout,
                       n_rows, n, r, i, (double)out[i][r], (double)expected);
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
            const int group_rows = arm_panel_types[type].group_rows;
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
    EACH_ARM_PANEL_TYPE(CASE);
    printf("%d unequal\n", n_unequal);
    return n_unequal != 0;
}
