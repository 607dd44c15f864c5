// Quantizes activations to 8 bits, for products with quantized weights.

#include "activations.h"

#if HAS_OWN_PRODUCTS

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

#if HAS_ARM_PRODUCTS

static float rounded_to_half(float x) { return (float)(__fp16)x; }

// As llama.cpp computes it on ARM: for blocks, from a quotient that is rounded first.
static float inverse_of(float max, bool is_super) { return is_super ? 127.0f / max : 1.0f / (max / 127.0f); }

#else

static float rounded_to_half(float x) { return _cvtsh_ss(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT)); }

static float inverse_of(float max, bool is_super) {
    (void)is_super;
    return 127.0f / max;
}

#endif

void quantize_activations(const float *x, int64_t n_blocks, bool is_super, int32_t zero_point,
                          struct activation_block *out) {
    const int n_together = is_super ? SUPERBLOCK : 1;
    for (int64_t b = 0; b < n_blocks; b += n_together) {
        const float max = max_abs(x + b * QUANT_BLOCK, n_together * QUANT_BLOCK);
        const float inverse = max != 0 ? inverse_of(max, is_super) : 0;
        const float rounded = rounded_to_half(max / 127.0f);
        const float scale = !is_super ? rounded : max != 0 ? 1 / inverse : 0;
        for (int64_t i = b; i < b + n_together; i++) {
            quantize_block(x + i * QUANT_BLOCK, inverse, scale, zero_point, &out[i]);
        }
    }
}

#endif
