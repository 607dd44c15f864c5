// Recognizes the nodes of llama.cpp's graph whose results are partial: each rank holds a term of the sum.
//
// Knows: the names that llama.cpp gives to nodes and weights. Refuses to know: architectures; Python says which
// names are points.

#include "reduction_points.h"

#include <string.h>

#include "allreduce_record.h"
#include "attributes.h"

enum { MAX_POINTS = 8, MAX_NAME = 64 };

struct reduction_point {
    char name[MAX_NAME];
    bool is_weight;  // a suffix of the weight that a product reads, else a prefix of the node's own name
};

static struct reduction_point points[MAX_POINTS];
static int n_points;

bool read_reduction_points(const char *lines) {
    n_points = 0;
    for (const char *line = lines; *line;) {
        const size_t n = strcspn(line, "\n");
        if (n_points == MAX_POINTS || n < 2 || n > MAX_NAME) {
            return allreduce_failed(ALLREDUCE_BAD_TENSOR);
        }
        struct reduction_point *const point = &points[n_points++];
        point->is_weight = line[0] == '=';
        memcpy(point->name, line + 1, n - 1);
        point->name[n - 1] = 0;
        line += n + (line[n] == '\n');
    }
    return true;
}

void forget_reduction_points(void) { n_points = 0; }

static bool ends_with(const char *s, const char *end) {
    const size_t n = strlen(s), m = strlen(end);
    return n >= m && memcmp(s + n - m, end, m) == 0;
}

// Also tells it of a product that became a custom node.
static bool is_product(const struct ggml_tensor *t) {
    return t->op == GGML_OP_MUL_MAT || (t->op == GGML_OP_CUSTOM && t->src[0]);
}

bool is_reduction_point(const struct ggml_tensor *t) {
    for (int i = 0; i < n_points; i++) {
        const struct reduction_point *const p = &points[i];
        if (p->is_weight ? is_product(t) && ends_with(t->src[0]->name, p->name)
                         : strncmp(t->name, p->name, strlen(p->name)) == 0) {
            return true;
        }
    }
    return false;
}

// Reads the reduction points in a process that does not all-reduce, for the model that is traced next. Returns
// a status.
EXPORT int dure_allreduce_points(const char *lines) {
    return read_reduction_points(lines) ? ALLREDUCE_OK : ALLREDUCE_BAD_TENSOR;
}
