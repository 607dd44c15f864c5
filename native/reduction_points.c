// Recognizes the nodes of llama.cpp's graph whose results are partial: each rank holds a term of the sum.
//
// Knows: the names that llama.cpp gives to nodes and weights, and that it adds adapters to a product one by one.
// Refuses to know: architectures and adapters; Python says which names are points, and what is adapted.

#include "reduction_points.h"

#include <stdlib.h>
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

typedef char weight_name[MAX_NAME];

static weight_name *adapted;  // [n_adapted] sorted: each weight as often as adapters add to its products
static int n_adapted;

// The product of a point to which adapters are still to be added, or its sum with those before them.
static const struct ggml_tensor *unfinished;
static int n_to_add;
static const struct ggml_tensor *last_sum;  // that is a point, until another node is asked about

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

// Copies the name of a product's weight. ggml calls a copy of it on a device "device#name#0".
static void read_weight_name(const struct ggml_tensor *product, weight_name out) {
    const char *name = product->src[0]->name;
    const char *const first = strchr(name, '#'), *const last = strrchr(name, '#');
    const bool is_copy = first && last > first;
    name = is_copy ? first + 1 : name;
    const size_t n = is_copy ? (size_t)(last - name) : strlen(name);
    const size_t length = n < MAX_NAME ? n : MAX_NAME - 1;
    memcpy(out, name, length);
    out[length] = 0;
}

static bool ends_with(const char *s, const char *end) {
    const size_t n = strlen(s), m = strlen(end);
    return n >= m && memcmp(s + n - m, end, m) == 0;
}

// Also tells it of a product that became a custom node.
static bool is_product(const struct ggml_tensor *t) {
    return t->op == GGML_OP_MUL_MAT || (t->op == GGML_OP_CUSTOM && t->src[0]);
}

static int compare_names(const void *a, const void *b) { return strcmp(a, b); }

static int count_adapters_of(const char *weight) {
    int first = 0;
    for (int stop = n_adapted; first < stop;) {
        const int middle = (first + stop) / 2;
        if (strcmp(adapted[middle], weight) < 0) {
            first = middle + 1;
        } else {
            stop = middle;
        }
    }
    int n = 0;
    while (first + n < n_adapted && strcmp(adapted[first + n], weight) == 0) {
        n++;
    }
    return n;
}

// weight: of t, if it is a product, else "".
static bool is_point(const struct reduction_point *p, const struct ggml_tensor *t, const char *weight) {
    return p->is_weight ? ends_with(weight, p->name) : strncmp(t->name, p->name, strlen(p->name)) == 0;
}

bool is_reduction_point(const struct ggml_tensor *t) {
    if (t == last_sum) {
        return true;
    }
    last_sum = NULL;
    if (unfinished && t->op == GGML_OP_ADD && t->src[0] == unfinished) {
        n_to_add--;
        unfinished = n_to_add ? t : NULL;
        last_sum = n_to_add ? NULL : t;
        return n_to_add == 0;
    }
    weight_name weight = "";
    if (is_product(t)) {
        read_weight_name(t, weight);
    }
    for (int i = 0; i < n_points; i++) {
        if (is_point(&points[i], t, weight)) {
            n_to_add = points[i].is_weight ? count_adapters_of(weight) : 0;
            unfinished = n_to_add ? t : NULL;
            return n_to_add == 0;
        }
    }
    return false;
}

// Reads which weights have adapters in the next steps: a line for each weight of each adapter. Their terms are
// partial too, so what is summed over the ranks is the product with all of them added. Returns a status.
EXPORT int dure_allreduce_adapters(const char *lines) {
    int n = 0;
    for (const char *c = lines; *c; c++) {
        n += *c == '\n';
    }
    weight_name *const names = calloc((size_t)n + 1, sizeof *names);
    if (!names) {
        return ALLREDUCE_NO_MEMORY;
    }
    free(adapted);
    adapted = names;
    n_adapted = n;
    unfinished = last_sum = NULL;
    for (int i = 0; i < n; i++) {
        const size_t length = strcspn(lines, "\n");
        memcpy(names[i], lines, length < MAX_NAME ? length : MAX_NAME - 1);
        lines += length + 1;
    }
    qsort(names, (size_t)n, sizeof *names, compare_names);
    return ALLREDUCE_OK;
}

// Reads the reduction points in a process that does not all-reduce, for the model that is traced next. Returns
// a status.
EXPORT int dure_allreduce_points(const char *lines) {
    return read_reduction_points(lines) ? ALLREDUCE_OK : ALLREDUCE_BAD_TENSOR;
}
