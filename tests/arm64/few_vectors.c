// Multiplies matrices from standard input with few vectors, and writes what dure's kernels of ARM make of them, then
// what scalar C does. A matrix comes with six whole numbers (type, row_layout, vectors, rows, columns, bytes of a row),
// its rows one by one, its rows as they lie, and the vectors.

#include <stdio.h>
#include <stdlib.h>

#include "arm_matvec.h"
#include "reference.h"

struct matrix_case {
    int32_t type, layout, n, n_rows, n_columns, row_bytes;
};

static void *read_bytes(size_t n) {
    void *const p = aligned_alloc(64, (n + 63) / 64 * 64);
    if (!p || fread(p, n, 1, stdin) != 1) {
        exit(1);
    }
    return p;
}

// Multiplies a row with a vector as it was quantized.
static float reference(enum ggml_type type, const uint8_t *row, const struct activation_block *vector, int n_blocks) {
    const bool is_super = arm_types[type].has_superblocks;
    float sum = 0;
    for (int b = 0; b < n_blocks; b += is_super ? SUPERBLOCK : 1) {
        const struct activation_superblock *const s = (const void *)(vector + b);
        const int8_t *const x = is_super ? s->numbers : vector[b].numbers;
        sum = added(sum, type, is_super, row, x, is_super ? s->scale : vector[b].scale);
        row += arm_types[type].bytes;
    }
    return sum;
}

static void run(const struct matrix_case c) {
    const size_t bytes = (size_t)c.n_rows * (size_t)c.row_bytes, n = (size_t)c.n, width = (size_t)c.n_columns;
    uint8_t *const rows = read_bytes(bytes), *const laid = read_bytes(bytes);
    float *const x = read_bytes(n * width * sizeof(float));
    const int n_blocks = c.n_columns / QUANT_BLOCK;
    struct activation_block *const blocks = aligned_alloc(64, (size_t)(c.n * n_blocks + 3) / 4 * 4 * sizeof *blocks);
    float *const results = malloc(2 * n * (size_t)c.n_rows * sizeof *results);
    const struct activation_block *vectors[MAX_VECTORS];
    float *out[MAX_VECTORS];
    for (int i = 0; i < c.n; i++) {
        quantize_vector(c.type, x + i * c.n_columns, n_blocks, blocks + i * n_blocks);
        vectors[i] = blocks + i * n_blocks;
        out[i] = results + i * c.n_rows;
        for (int r = 0; r < c.n_rows; r++) {
            float *const expected = results + (c.n + i) * c.n_rows;
            expected[r] = reference(c.type, rows + r * c.row_bytes, vectors[i], n_blocks);
        }
    }
    const struct quant_matrix matrix = {c.type, c.layout, (const char *)laid, (size_t)c.row_bytes, c.n_rows, n_blocks};
    multiply_arm(c.n, &matrix, vectors, out, 0, c.n_rows);
    fwrite(results, sizeof *results, 2 * n * (size_t)c.n_rows, stdout);
    free(rows);
    free(laid);
    free(x);
    free(blocks);
    free(results);
}

int main(void) {
    struct matrix_case c;
    while (fread(&c, sizeof c, 1, stdin) == 1) {
        run(c);
    }
    return 0;
}
