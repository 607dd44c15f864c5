// Knows how quantized weights lie in memory: as in the file, or as llama.cpp repacks them.
//
// Refuses to know: what they are multiplied with, and how.

#include "arm_layout.h"
#include "interleaved_types.h"

#if HAS_OWN_PRODUCTS

#include <ggml-backend.h>

static int repacked_bytes, repacked_q4_0_rows;

void set_repacks(int bytes, int q4_0_rows) {
    repacked_bytes = bytes;
    repacked_q4_0_rows = q4_0_rows;
}

#if HAS_ARM_PRODUCTS

// The kernels for rows side by side need dot products; then llama.cpp may still be one that repacks nothing.
static bool is_repacked_type(enum ggml_type type) {
    const bool has_own_rows = type == GGML_TYPE_Q4_0 && repacked_q4_0_rows != arm_types[type].group_rows;
    return HAS_ARM_DOT && repacked_bytes > 0 && is_arm_type(type) && arm_types[type].group_rows && !has_own_rows;
}

static bool has_layout_of_eight(enum ggml_type type) { return has_layout(type, ROWS_BY_EIGHT_BYTES); }

static bool is_known_type(enum ggml_type type) { return is_arm_type(type); }

#else

static bool is_repacked_type(enum ggml_type type) {
    return repacked_bytes == 8 && repacked_q4_0_rows == ROW_GROUP &&
           (is_nibble_type(type) || type == GGML_TYPE_Q4_K || type == GGML_TYPE_Q2_K);
}

static bool has_layout_of_eight(enum ggml_type type) {
    (void)type;
    return true;
}

static bool is_known_type(enum ggml_type type) { return is_block_type(type) || is_row_type(type); }

#endif

static bool is_repacked(const struct ggml_tensor *w) {
    return is_repacked_type(w->type) && w->buffer &&
           strcmp(ggml_backend_buft_name(ggml_backend_buffer_get_type(w->buffer)), "CPU_REPACK") == 0;
}

enum row_layout row_layout_of(const struct ggml_tensor *w) {
    if (!is_repacked(w)) {
        return ROW_BY_ROW;
    }
    return repacked_bytes == 8 && has_layout_of_eight(w->type) ? ROWS_BY_EIGHT_BYTES : ROWS_BY_FOUR_BYTES;
}

bool is_row_major(const struct ggml_tensor *w) {
    return is_known_type(w->type) && (!w->buffer || ggml_backend_buffer_is_host(w->buffer));
}

bool is_known_product(const struct ggml_tensor *t) {
    if (t->op != GGML_OP_MUL_MAT && t->op != GGML_OP_MUL_MAT_ID) {
        return false;
    }
    const struct ggml_tensor *const w = t->src[0], *x = t->src[1];
    const bool is_flat = t->op == GGML_OP_MUL_MAT_ID || (w->ne[2] == 1 && x->ne[2] == 1);
    return is_flat && w->ne[3] == 1 && x->ne[3] == 1 && x->type == GGML_TYPE_F32 && x->nb[0] == sizeof(float) &&
           (is_repacked(w) || is_row_major(w));
}

#else

void set_repacks(int bytes, int q4_0_rows) {
    (void)bytes;
    (void)q4_0_rows;
}

#endif
