// Adds up the squares of what each weight of a layer is multiplied with, column by column.
//
// Knows: products in llama.cpp's graph, and their vectors. Refuses to know: who computes the product, and what
// the sums are for.
//
// A product's vectors are read as float32, before any kernel rounds them. A stack of experts has sums for each
// expert, of the tokens that came to it. Source: llama.cpp, tools/imatrix.

#include "importance.h"

#include <ggml-backend.h>
#include <stdlib.h>
#include <string.h>

#include "attributes.h"

// Of one weight.
struct input_squares {
    const struct ggml_tensor *weight;
    int64_t width, n_matrices, n_counts;  // one count for all matrices, unless they are experts
    float *sums;                          // [n_matrices][width]
    int64_t *counts;                      // [n_counts] vectors
    char name[GGML_MAX_NAME];
};

struct importance {
    struct input_squares *all;
    int64_t n, room;
    const struct ggml_tensor *wanted;  // the node that is computed next, if it is a product
    void *copies[2];                   // of vectors and ids in device memory
    bool lacks_memory;
};

struct importance *new_importance(void) { return calloc(1, sizeof(struct importance)); }

void free_importance(struct importance *g) {
    if (g) {
        for (int64_t i = 0; i < g->n; i++) {
            free(g->all[i].sums);
            free(g->all[i].counts);
        }
        free(g->all);
        free(g->copies[0]);
        free(g->copies[1]);
        free(g);
    }
}

// Also tells it of a product that became a custom node in an earlier step, whose graph llama.cpp uses again.
static bool is_product(const struct ggml_tensor *t) {
    return t->op == GGML_OP_MUL_MAT || t->op == GGML_OP_MUL_MAT_ID ||
           (t->op == GGML_OP_CUSTOM && t->src[0] && t->src[1]);
}

bool wants_input(struct importance *g, const struct ggml_tensor *t) {
    const bool is_wanted = is_product(t) && t->src[0]->op == GGML_OP_NONE && !t->src[0]->view_src &&
                           strncmp(t->src[0]->name, "blk.", 4) == 0 && t->src[1]->type == GGML_TYPE_F32 &&
                           ggml_nelements(t->src[1]) > 0;
    g->wanted = is_wanted ? t : NULL;
    return is_wanted;
}

static struct input_squares *add_weight(struct importance *g, const struct ggml_tensor *w, bool has_experts) {
    if (g->n == g->room) {
        const int64_t room = g->room ? 2 * g->room : 256;
        struct input_squares *const all = realloc(g->all, (size_t)room * sizeof *all);
        if (!all) {
            return NULL;
        }
        g->all = all;
        g->room = room;
    }
    struct input_squares *const s = &g->all[g->n];
    *s = (struct input_squares){.weight = w,
                                .width = w->ne[0],
                                .n_matrices = w->ne[2] * w->ne[3],
                                .n_counts = has_experts ? w->ne[2] : 1};
    memcpy(s->name, w->name, sizeof s->name);
    s->sums = calloc((size_t)(s->n_matrices * s->width), sizeof *s->sums);
    s->counts = calloc((size_t)s->n_counts, sizeof *s->counts);
    if (!s->sums || !s->counts) {
        free(s->sums);
        free(s->counts);
        return NULL;
    }
    g->n++;
    return s;
}

static struct input_squares *squares_of(struct importance *g, const struct ggml_tensor *w, bool has_experts) {
    for (int64_t i = 0; i < g->n; i++) {
        if (g->all[i].weight == w) {
            return &g->all[i];
        }
    }
    return add_weight(g, w, has_experts);
}

// Returns a tensor's data in this process's memory, a copy if it is elsewhere; NULL if memory is short.
static const char *data_of(const struct ggml_tensor *t, void **copy) {
    if (!t->buffer || ggml_backend_buffer_is_host(t->buffer)) {
        return t->data;
    }
    void *const data = realloc(*copy, ggml_nbytes(t));
    if (data) {
        *copy = data;
        ggml_backend_tensor_get(t, data, 0, ggml_nbytes(t));
    }
    return data;
}

static void add_squares(const float *x, int64_t n, float *sums) {
    for (int64_t i = 0; i < n; i++) {
        sums[i] += x[i] * x[i];
    }
}

static void gather_all(struct input_squares *s, const struct ggml_tensor *x, const char *data) {
    const struct ggml_tensor *const w = s->weight;
    for (int64_t i3 = 0; i3 < x->ne[3]; i3++) {
        for (int64_t i2 = 0; i2 < x->ne[2]; i2++) {
            float *const sums = s->sums + (i3 % w->ne[3] * w->ne[2] + i2 % w->ne[2]) * s->width;
            for (int64_t i1 = 0; i1 < x->ne[1]; i1++) {
                const size_t at = (size_t)i1 * x->nb[1] + (size_t)i2 * x->nb[2] + (size_t)i3 * x->nb[3];
                add_squares((const float *)(data + at), s->width, sums);
            }
        }
    }
    s->counts[0] += ggml_nrows(x) / s->n_matrices;
}

// x: [width, vectors of a token (1: all experts see the same), tokens]; ids: [experts of a token, tokens].
static void gather_experts(struct input_squares *s, const struct ggml_tensor *x, const char *data,
                           const struct ggml_tensor *ids, const char *id_data) {
    for (int64_t token = 0; token < ids->ne[1]; token++) {
        for (int64_t i = 0; i < ids->ne[0]; i++) {
            const size_t at = (size_t)token * ids->nb[1] + (size_t)i * ids->nb[0];
            const int32_t expert = *(const int32_t *)(id_data + at);
            const size_t vector = (size_t)(i % x->ne[1]) * x->nb[1] + (size_t)token * x->nb[2];
            add_squares((const float *)(data + vector), s->width, s->sums + expert * s->width);
            s->counts[expert]++;
        }
    }
}

void gather_input(struct importance *g, const struct ggml_tensor *t) {
    if (t != g->wanted) {
        return;
    }
    const struct ggml_tensor *const x = t->src[1], *ids = t->src[2];
    struct input_squares *const s = squares_of(g, t->src[0], ids != NULL);
    const char *const data = data_of(x, &g->copies[0]);
    const char *const id_data = ids ? data_of(ids, &g->copies[1]) : NULL;
    if (!s || !data || (ids && !id_data)) {
        g->lacks_memory = true;
    } else if (ids) {
        gather_experts(s, x, data, ids, id_data);
    } else {
        gather_all(s, x, data);
    }
}

// Returns what was added up for the i-th weight; NULL past the last.
EXPORT const struct input_squares *dure_importance_get(const struct importance *g, int64_t i) {
    return i < g->n ? &g->all[i] : NULL;
}

EXPORT bool dure_importance_lacks_memory(const struct importance *g) { return g->lacks_memory; }
