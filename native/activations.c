// Quantizes activations to 8 bits, for products with quantized weights.

#include "activations.h"

#if HAS_PRODUCTS

#include "numbers.h"

static void quantize_block(const float *x, float inverse, float scale, int32_t zero_point,
                           struct activation_block *out) {
    int32_t sums[2] = {0};
    for (int half = 0; half < 2; half++) {
        for (int i = half * QUANT_BLOCK / 2; i < (half + 1) * QUANT_BLOCK / 2; i++) {
            const int32_t q = (int32_t)rintf(x[i] * inverse);
            out->numbers[i] = (int8_t)q;
            sums[half] += q;
        }
    }
    out->scale = scale;
    out->sum = scale * (float)(sums[0] + sums[1]);
    out->corrections[0] = -zero_point * sums[0];
    out->corrections[1] = -zero_point * sums[1];
}

// Returns the maximum of |x|, compared as integers: the same order, and it vectorizes.
static float max_abs(const float *x, int n) {
    uint32_t max = 0;
    for (int i = 0; i < n; i++) {
        const uint32_t u = bits_of(x[i]) & 0x7fffffffu;
        max = u > max ? u : max;
    }
    return float_of(max);
}

void quantize_activations(const float *x, int64_t n_blocks, bool is_super, int32_t zero_point,
                          struct activation_block *out) {
    const int n_together = is_super ? SUPERBLOCK : 1;
    for (int64_t b = 0; b < n_blocks; b += n_together) {
        const float max = max_abs(x + b * QUANT_BLOCK, n_together * QUANT_BLOCK);
        const float inverse = max != 0 ? 127.0f / max : 0;
        const float rounded = _cvtsh_ss(_cvtss_sh(max / 127.0f, _MM_FROUND_TO_NEAREST_INT));
        const float scale = !is_super ? rounded : max != 0 ? 1 / inverse : 0;
        for (int64_t i = b; i < b + n_together; i++) {
            quantize_block(x + i * QUANT_BLOCK, inverse, scale, zero_point, &out[i]);
        }
    }
}

#endif
