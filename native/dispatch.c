// Decides which kernel computes a node of llama.cpp's graph.
//
// Knows: the kernels, that each of them recognizes its own nodes, and that those of a device are not ours. Refuses to know: how a node becomes a
// custom node, and how a kernel computes.

#include "dispatch.h"

#include <ggml-backend.h>
#include <stdbool.h>
#include <stdlib.h>

#include "attention.h"
#include "custom_node.h"
#include "float_product.h"
#include "importance.h"
#include "matmul.h"
#include "matvec.h"
#include "attributes.h"
#include "weight_layout.h"
#include "scale.h"

struct kernels {
    struct attention *attention;
    struct matvec *matvec;  // NULL if this processor lacks the instructions
    struct matmul *matmul;  // the same
    struct float_product *float_product;  // the same
    struct custom_node_params scale;
    struct importance *importance;  // NULL unless it is gathered
};

struct importance *importance_of(const struct kernels *kernels) { return kernels->importance; }

// A device computes the nodes whose results lie in its memory. It knows no custom nodes, and we cannot read there.
static bool is_on_device(const struct ggml_tensor *t) {
    const struct ggml_tensor *const owner = t->view_src ? t->view_src : t;
    return owner->buffer && !ggml_backend_buffer_is_host(owner->buffer);
}

void dispatch_node(struct kernels *kernels, struct ggml_tensor *t) {
    if (is_on_device(t)) {
        return;
    }
    take_attention(kernels->attention, t);
    take_matvec(kernels->matvec, t);
    take_matmul(kernels->matmul, t);
    take_float_product(kernels->float_product, t);
    take_scale(&kernels->scale, t);
}

// To be called once, before the first context. bytes, q4_0_rows: see set_repacks.
EXPORT void dure_kernels_start(int bytes, int q4_0_rows) { set_repacks(bytes, q4_0_rows); }

EXPORT void dure_kernels_free(struct kernels *kernels) {
    if (kernels) {
        free_attention(kernels->attention);
        free_matvec(kernels->matvec);
        free_matmul(kernels->matmul);
        free_float_product(kernels->float_product);
        free_importance(kernels->importance);
        free(kernels);
    }
}

// Allocates the kernels of one context, to be freed after it. Returns NULL if memory is short.
EXPORT struct kernels *dure_kernels_new(void) {
    struct kernels *const kernels = calloc(1, sizeof *kernels);
    if (!kernels || !(kernels->attention = new_attention()) || !write_scale_params(&kernels->scale)) {
        dure_kernels_free(kernels);
        return NULL;
    }
    kernels->matvec = new_matvec();
    kernels->matmul = new_matmul();
    kernels->float_product = new_float_product();
    return kernels;
}

// Begins to gather what the weights of a context are multiplied with, from nothing, or ends it. Returns what
// `dure_importance_get` reads, until the next call; NULL if it ends, or if memory is short.
EXPORT struct importance *dure_kernels_gather(struct kernels *kernels, bool on) {
    free_importance(kernels->importance);
    return kernels->importance = on ? new_importance() : NULL;
}
