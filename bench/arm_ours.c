// Multiplies a matrix with vectors by dure's kernels, between two marks: for bench/arm.py, which counts.
//
// Usage: arm_ours TYPE_NUMBER ROWS WIDTH VECTORS ROW_BYTES LAYOUT, LAYOUT being rows or repacked. Goes in by the
// door that dure uses, take_matvec and take_matmul. Of ggml there is only what these ask for.
// The exit status is 3 if no kernel takes the product. Numbers are arbitrary: no kernel branches on them.

#include <ggml-backend.h>
#include <ggml.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arm_marks.h"
#include "custom_node.h"
#include "matmul.h"
#include "matvec.h"

// ---------------------------------------------------------------- instead of ggml

// Of a node that was taken.
struct call {
    ggml_custom_op_t compute;
    void *user;
};

bool write_custom_node_params(struct custom_node_params *params, ggml_custom_op_t compute, void *user) {
    const struct call call = {compute, user};
    memcpy(params, &call, sizeof call);
    return true;
}

void turn_into_custom_node(struct ggml_tensor *t, const struct custom_node_params *params) {
    memcpy(t->op_params, params, sizeof *params);
    t->op = GGML_OP_CUSTOM;
}

// A matrix in a buffer is repacked, one without lies as in its file.
ggml_backend_buffer_type_t ggml_backend_buffer_get_type(ggml_backend_buffer_t buffer) { return (void *)buffer; }

const char *ggml_backend_buft_name(ggml_backend_buffer_type_t type) {
    (void)type;
    return "CPU_REPACK";
}

bool ggml_backend_buffer_is_host(ggml_backend_buffer_t buffer) { return !buffer; }

bool ggml_is_contiguous(const struct ggml_tensor *t) {
    (void)t;
    return true;
}

int64_t ggml_nelements(const struct ggml_tensor *t) { return t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3]; }

int64_t ggml_nrows(const struct ggml_tensor *t) { return t->ne[1] * t->ne[2] * t->ne[3]; }

// Says how llama.cpp repacks on this core: four or eight bytes of each row in turn, four rows of Q4_0. A dure that
// only asks whether it repacks gets the first alone.
static void say_repacking(void) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
    const int bytes = 8;
#elif defined(__ARM_FEATURE_DOTPROD)
    const int bytes = 4;
#else
    const int bytes = 0;
#endif
    ((void (*)(int, int))(void *)set_repacks)(bytes, 4);
}

// ---------------------------------------------------------------- a product

static struct ggml_tensor matrix_of(enum ggml_type type, int64_t width, int64_t rows, size_t row_bytes) {
    struct ggml_tensor t = {.type = type, .ne = {width, rows, 1, 1}};
    const size_t bytes = row_bytes * (size_t)rows;
    t.nb[0] = type == GGML_TYPE_F32 ? sizeof(float) : 1;
    t.nb[1] = row_bytes;
    t.nb[2] = t.nb[3] = bytes;
    t.data = aligned_alloc(64, (bytes + 127) / 64 * 64);
    memset(t.data, 0, bytes);
    return t;
}

int main(int argc, char **argv) {
    if (argc != 7) {
        return 2;
    }
    const int64_t rows = atoi(argv[2]), width = atoi(argv[3]), n = atoi(argv[4]);
    struct ggml_tensor w = matrix_of((enum ggml_type)atoi(argv[1]), width, rows, (size_t)atoi(argv[5]));
    struct ggml_tensor x = matrix_of(GGML_TYPE_F32, width, n, (size_t)width * sizeof(float));
    struct ggml_tensor dst = matrix_of(GGML_TYPE_F32, rows, n, (size_t)rows * sizeof(float));
    say_repacking();
    w.buffer = strcmp(argv[6], "repacked") == 0 ? (void *)&w : NULL;
    dst.op = GGML_OP_MUL_MAT;
    dst.src[0] = &w;
    dst.src[1] = &x;
    for (int64_t i = 0; i < n * width; i++) {
        ((float *)x.data)[i] = 1;
    }
    take_matvec(new_matvec(), &dst);
    if (dst.op != GGML_OP_CUSTOM) {
        take_matmul(new_matmul(), &dst);
    }
    if (dst.op != GGML_OP_CUSTOM) {
        return 3;
    }
    struct call call;
    memcpy(&call, dst.op_params, sizeof call);
    begin_measured();
    call.compute(&dst, 0, 1, call.user);
    end_measured();
    puts(argv[6]);
    return 0;
}
