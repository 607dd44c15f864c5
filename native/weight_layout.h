#pragma once

#include <ggml.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "attributes.h"
#include "product_simd.h"

enum {
    QUANT_BLOCK = 32,  // numbers of a block, of weights and of activations
    SUPERBLOCK = 8,    // blocks of a superblock
    ROW_GROUP = 8      // rows that llama.cpp interleaves when it repacks a matrix
};

// How the rows of a matrix lie: one after the other; or side by side, four or eight in a group, as llama.cpp repacks
// them, four or eight bytes of each row in turn.
enum row_layout { ROW_BY_ROW, ROWS_BY_FOUR_BYTES, ROWS_BY_EIGHT_BYTES };

// Says how this llama.cpp repacks matrices: how many bytes of a row stay together, 0 if it does not repack, and how
// many rows of Q4_0 form a group. Until it is said, no matrix counts as repacked.
void set_repacks(int bytes, int q4_0_rows);

// Returns how the rows of a tensor lie, which is_known_product is true of.
enum row_layout row_layout_of(const struct ggml_tensor *w);

// Tells whether rows of a type that is known, in blocks or superblocks, lie one after the other.
bool is_row_major(const struct ggml_tensor *w);

// Tells whether a node is the product of activations with a matrix, or with the matrices of some experts, that
// lies as is said here, or in arm_layout.h.
bool is_known_product(const struct ggml_tensor *t);

#if HAS_PRODUCTS

// A row's superblock of Q6_K: numbers of six bits, less 32, in their lower four and upper two bits, and a scale
// for each 16 numbers.
struct q6_k_row {
    uint8_t low[2][2][QUANT_BLOCK], high[2][QUANT_BLOCK];
    int8_t scales[2 * SUPERBLOCK];
    uint16_t scale;
};

// A row's block of Q8_0.
struct q8_0_row {
    uint16_t scale;
    int8_t numbers[QUANT_BLOCK];
};

// ---------------------------------------------------------------- unpacking

// Returns the numbers of a block of a superblock, plus 32.
INLINE __m256i q6_k_numbers_of(const struct q6_k_row *row, const int block) {
    const int i = block / 4, part = block % 4;
    const __m256i bytes = load_bytes(row->low[i][part % 2]), high = load_bytes(row->high[i]);
    const __m256i shifted = part == 0   ? _mm256_slli_epi16(high, 4)
                            : part == 1 ? _mm256_slli_epi16(high, 2)
                            : part == 2 ? high
                                        : _mm256_srli_epi16(high, 2);
    const __m256i two_bits = _mm256_and_si256(shifted, _mm256_set1_epi8(0x30));
    return _mm256_or_si256(part < 2 ? low_nibbles(bytes) : high_nibbles(bytes), two_bits);
}

#endif
