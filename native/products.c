// Vectors rounded to 8 bits, and which matrices lie as we know them.

#include "products.h"

#if HAS_PRODUCTS

#include <ggml-backend.h>
#include <string.h>

static bool repacks;

void set_repacks(bool repacks_) { repacks = repacks_; }

static bool is_repacked(const struct ggml_tensor *w) {
    return repacks && w->buffer && (w->type == GGML_TYPE_Q4_0 || w->type == GGML_TYPE_Q4_K) &&
           strcmp(ggml_backend_buft_name(ggml_backend_buffer_get_type(w->buffer)), "CPU_REPACK") == 0;
}

bool is_plain(const struct ggml_tensor *w) {
    return (w->type == GGML_TYPE_Q6_K || w->type == GGML_TYPE_Q8_0) &&
           (!w->buffer || ggml_backend_buffer_is_host(w->buffer));
}

bool is_known_product(const struct ggml_tensor *t) {
    if (t->op != GGML_OP_MUL_MAT && t->op != GGML_OP_MUL_MAT_ID) {
        return false;
    }
    const struct ggml_tensor *const w = t->src[0], *x = t->src[1];
    const bool is_flat = t->op == GGML_OP_MUL_MAT_ID || (w->ne[2] == 1 && x->ne[2] == 1);
    return is_flat && w->ne[3] == 1 && x->ne[3] == 1 && x->type == GGML_TYPE_F32 && x->nb[0] == sizeof(float) &&
           (is_repacked(w) || is_plain(w));
}

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

void round_vector(const float *x, int64_t n_blocks, bool is_super, int32_t raised, struct q8_block *out) {
    const int at_once = is_super ? SUPER : 1;
    for (int64_t b = 0; b < n_blocks; b += at_once) {
        const float most = largest(x + b * BLOCK, at_once * BLOCK), inverse = most != 0 ? 127.0f / most : 0;
        const float half = _cvtsh_ss(_cvtss_sh(most / 127.0f, _MM_FROUND_TO_NEAREST_INT));
        const float scale = !is_super ? half : most != 0 ? 1 / inverse : 0;
        for (int64_t i = b; i < b + at_once; i++) {
            round_block(x + i * BLOCK, inverse, scale, raised, &out[i]);
        }
    }
}

#else

void set_repacks(bool repacks) { (void)repacks; }

#endif
