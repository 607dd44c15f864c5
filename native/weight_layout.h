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

// Eight rows' blocks of Q4_0: numbers of four bits, less 8. Byte [0][i][j] is row i's j-th, byte [1][i][j] its
// (8 + j)-th: the lower half is number j (or 8 + j), the upper half number 16 + j (or 24 + j). Of each byte
// the upper bits of both halves are flipped.
struct q4_0_group {
    uint16_t scales[ROW_GROUP];
    uint8_t bytes[2][ROW_GROUP][8];
};

// Eight rows' superblocks of Q4_K: numbers of four bits, each block with a scale and a minimum of six bits, see
// q4_k_factors_of. bytes[i][j][r]: row r's numbers 8 j to 8 j + 7, of block 2 i in the lower halves, of block
// 2 i + 1 in the upper.
struct q4_k_group {
    uint16_t scales[ROW_GROUP], minima[ROW_GROUP];
    uint8_t packed_factors[SUPERBLOCK][12];
    uint8_t bytes[SUPERBLOCK / 2][4][ROW_GROUP][8];
};

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

// Scales and minima of the blocks of eight rows' superblocks: numbers of six bits.
struct q4_k_factors {
    uint8_t scales[SUPERBLOCK][ROW_GROUP], minima[SUPERBLOCK][ROW_GROUP];
};

// A word, four rows' bytes, of each block.
typedef uint32_t words_of_blocks __attribute__((vector_size(SUPERBLOCK * 4)));

// Stores each block's first four rows beside its last four.
INLINE void store_factors(uint8_t (*out)[ROW_GROUP], words_of_blocks first_rows, words_of_blocks last_rows) {
    const words_of_blocks first = __builtin_shufflevector(first_rows, last_rows, 0, 8, 1, 9, 2, 10, 3, 11);
    const words_of_blocks last = __builtin_shufflevector(first_rows, last_rows, 4, 12, 5, 13, 6, 14, 7, 15);
    memcpy(out, &first, sizeof first);
    memcpy(out + SUPERBLOCK / 2, &last, sizeof last);
}

INLINE struct q4_k_factors q4_k_factors_of(const struct q4_k_group *g) {
    words_of_blocks a, b, c;  // three words of the first block, then those of the next
    memcpy(&a, g->packed_factors[0], sizeof a);
    memcpy(&b, (const char *)g->packed_factors + sizeof a, sizeof b);
    memcpy(&c, (const char *)g->packed_factors + 2 * sizeof a, sizeof c);
    const words_of_blocks x = __builtin_shufflevector(a, b, 0, 3, 6, 9, 12, 15, 0, 0);
    const words_of_blocks y = __builtin_shufflevector(a, b, 1, 4, 7, 10, 13, 0, 0, 0);
    const words_of_blocks z = __builtin_shufflevector(a, b, 2, 5, 8, 11, 14, 0, 0, 0);
    // The first two words: four rows' scales (or minima) in the lower six bits, and in the upper two the upper
    // bits of the other rows'. The third: the other rows' lower four bits of both.
    const words_of_blocks scales = __builtin_shufflevector(x, c, 0, 1, 2, 3, 4, 5, 10, 13);
    const words_of_blocks minima = __builtin_shufflevector(y, c, 0, 1, 2, 3, 4, 8, 11, 14);
    const words_of_blocks others = __builtin_shufflevector(z, c, 0, 1, 2, 3, 4, 9, 12, 15);
    struct q4_k_factors out;
    store_factors(out.scales, scales & 0x3f3f3f3fu, (others & 0x0f0f0f0fu) | (scales >> 2 & 0x30303030u));
    store_factors(out.minima, minima & 0x3f3f3f3fu, (others >> 4 & 0x0f0f0f0fu) | (minima >> 2 & 0x30303030u));
    return out;
}

#endif
