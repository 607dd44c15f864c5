// Attention over a KV cache in 16-bit floats, in place of llama.cpp's.
//
// llama.cpp goes through the cache query by query, keeps the result in 16-bit floats in memory, and calls
// e^x for each position: 100 ns for a query, a head and a position of 128 numbers where this was written.
// Here queries of a key head share what is read and converted, results stay in registers, and a block of
// positions is done at once: docs/decisions/0012. Sums are in float32 throughout.

#include "attention.h"

#include <ggml-backend.h>
#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "custom_node.h"
#include "attributes.h"
#include "numbers.h"

#if defined(__F16C__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// Numbers of a vector register, and queries that share what is read: what fits the registers.
#if defined(__AVX512F__)
enum { LANES = 16, TILE = 4 };
#elif defined(__F16C__)
enum { LANES = 8, TILE = 2 };
#else
enum { LANES = 4, TILE = 4 };
#endif

enum {
    GRAIN = 16,      // heads have a multiple of so many numbers
    AT_ONCE = 4,     // positions that are scored at once
    SLICE = 4,       // registers of values that are added at once
    POSITIONS = 64,  // of a block: its keys and its values fit the first cache
    FEW = 8,         // positions whose values are added before the next key head's
    ROWS = 32,       // queries that go through a block before the next is read
    MAX_DIM = 256,
    MAX_KINDS = 8,
    MAX_PARTS = 256,         // of the cache that threads share out, of all units
    LONG = 512,              // positions for each thread
    FEW_UNITS = 4,           // for each thread: the cache is shared out
    MINUS_INFINITY = 0xfc00  // as a 16-bit float
};

typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef float lanes_anywhere __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));
typedef float quad __attribute__((vector_size(16)));
typedef float quad_anywhere __attribute__((vector_size(16), aligned(4), may_alias));

// What a node of llama.cpp's says in its parameters, of which there are few kinds in a model.
struct kind {
    float scale, max_bias, softcap;  // as llama.cpp lays them out
    struct custom_node_params params;       // of a node that computes it
    struct attention *of;
};

// What the rows of a unit have found: the sum of values, weighted with e^(score - max), and the sum of
// the weights.
struct found {
    float max[ROWS], weights[ROWS], values[ROWS][MAX_DIM];
};

// Of one context of llama.cpp's, which computes one graph at a time.
struct attention {
    struct kind kinds[MAX_KINDS];
    int n_kinds;
    struct found parts[MAX_PARTS];
    atomic_int parts_done[MAX_PARTS];
};

// ---------------------------------------------------------------- lanes

INLINE lanes load(const float *x) { return *(const lanes_anywhere *)x; }

INLINE void store(float *x, lanes v) { *(lanes_anywhere *)x = v; }

INLINE lanes load_half(const uint16_t *x) {
#if defined(__AVX512F__)
    return (lanes)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)x));
#elif defined(__F16C__)
    return (lanes)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)x));
#elif defined(__aarch64__)
    return (lanes)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(x)));
#else
    (void)x;
    return (lanes){0};  // never called, see knows_halves
#endif
}

static bool knows_halves(void) {
#if defined(__F16C__) || defined(__aarch64__)
    return true;
#else
    return false;
#endif
}

// Four sums, of the lanes whose numbers are the same modulo four.
INLINE quad fold(lanes v) {
#if defined(__AVX512F__)
    return __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7) +
           (__builtin_shufflevector(v, v, 8, 9, 10, 11) + __builtin_shufflevector(v, v, 12, 13, 14, 15));
#elif defined(__F16C__)
    return __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
#else
    return (quad)v;
#endif
}

// The sums of four vectors.
INLINE quad sums_of(const lanes v[4]) {
    const quad a = fold(v[0]), b = fold(v[1]), c = fold(v[2]), d = fold(v[3]);
    const quad ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const quad cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
    return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

// ---------------------------------------------------------------- a block of positions

// Keys or values of one head: 16-bit floats, one vector every `stride` bytes.
struct cache {
    const char *data;
    size_t stride;
};

INLINE const uint16_t *at(const struct cache *c, int64_t position) {
    return (const uint16_t *)(c->data + (size_t)position * c->stride);
}

// Scores of n queries with the few positions of a block from `p` on, which is at `first`.
INLINE void score_few(const int n, const float (*q)[MAX_DIM], int dim, const struct cache *keys, int64_t first,
                      int p, float (*scores)[POSITIONS]) {
    lanes sum[TILE * AT_ONCE] = {0};
    for (int d = 0; d < dim; d += LANES) {
        lanes key[AT_ONCE];
        for (int i = 0; i < AT_ONCE; i++) {
            key[i] = load_half(at(keys, first + p + i) + d);
        }
        for (int r = 0; r < n; r++) {
            const lanes query = load(q[r] + d);
            for (int i = 0; i < AT_ONCE; i++) {
                sum[r * AT_ONCE + i] += query * key[i];
            }
        }
    }
    for (int r = 0; r < n; r++) {
        *(quad_anywhere *)(scores[r] + p) = sums_of(sum + r * AT_ONCE);
    }
}

// Adds the values of some positions, weighted, to a slice of n rows; what was there counts `keep` times.
INLINE void add_slice(const int n, const int n_lanes, float (*rows)[MAX_DIM], const float *keep,
                      const float (*weights)[POSITIONS], int d, const struct cache *values, int64_t first,
                      int begin, int end) {
    lanes sum[TILE * SLICE];
    for (int r = 0; r < n; r++) {
        for (int i = 0; i < n_lanes; i++) {
            sum[r * n_lanes + i] = load(rows[r] + d + i * LANES) * keep[r];
        }
    }
    for (int p = begin; p < end; p++) {
        const uint16_t *const value = at(values, first + p) + d;
        for (int i = 0; i < n_lanes; i++) {
            const lanes v = load_half(value + i * LANES);
            for (int r = 0; r < n; r++) {
                sum[r * n_lanes + i] += weights[r][p] * v;
            }
        }
    }
    for (int r = 0; r < n; r++) {
        for (int i = 0; i < n_lanes; i++) {
            store(rows[r] + d + i * LANES, sum[r * n_lanes + i]);
        }
    }
}

INLINE void add_some(const int n, float (*rows)[MAX_DIM], const float *keep,
                     const float (*weights)[POSITIONS], int dim, const struct cache *values, int64_t first,
                     int begin, int end) {
    int d = 0;
    for (; d + SLICE * LANES <= dim; d += SLICE * LANES) {
        add_slice(n, SLICE, rows, keep, weights, d, values, first, begin, end);
    }
    for (; d < dim; d += LANES) {
        add_slice(n, 1, rows, keep, weights, d, values, first, begin, end);
    }
}

// How many positions of the block there are up to the last that the mask lets a query see, in whole FEWs.
static int seen(const uint16_t *mask) {
    for (int stop = POSITIONS; mask && stop > 0; stop -= FEW) {
        uint16_t differs = 0;
        for (int p = stop - FEW; p < stop; p++) {
            differs |= mask[p] ^ MINUS_INFINITY;
        }
        if (differs) {
            return stop;
        }
    }
    return mask ? 0 : POSITIONS;
}

// Turns n scores into weights, e^(score - max); returns what the weights before must be multiplied with.
static float weigh(float *scores, int n, const uint16_t *mask, float softcap, float *max, float *weights) {
    float highest = -INFINITY, sum = 0;
    for (int p = n; p < POSITIONS; p++) {
        scores[p] = -INFINITY;
    }
    if (softcap != 0) {
        for (int p = 0; p < n; p++) {
            scores[p] = softcap * tanhf(scores[p]);
        }
    }
    if (mask) {
        for (int p = 0; p < POSITIONS; p += LANES) {
            store(scores + p, load(scores + p) + load_half(mask + p));
        }
    }
    for (int p = 0; p < POSITIONS; p++) {
        highest = scores[p] > highest ? scores[p] : highest;
    }
    if (highest == -INFINITY) {
        memset(scores, 0, POSITIONS * sizeof *scores);
        return 1;
    }
    const float before = *max;
    *max = highest > before ? highest : before;
    for (int p = 0; p < POSITIONS; p++) {
        const float x = scores[p] - *max;
        scores[p] = x < -87.0f ? 0 : exp_of_negative(x);
    }
    for (int p = 0; p < POSITIONS; p++) {
        sum += scores[p];
    }
    const float keep = before == -INFINITY ? 0 : exp_of_negative(before - *max);
    *weights = *weights * keep + sum;
    return keep;
}

// ---------------------------------------------------------------- a unit of work

// All that a node says, and how its work is cut: a unit is a stream, some key heads and some of their rows.
struct work {
    const struct ggml_tensor *dst, *q, *k, *v, *mask, *sinks;
    const struct kind *kind;
    int64_t dim, n_tokens, n_heads, heads_per_key, n_keys, n_positions;
    int64_t keys_per_unit, rows_per_unit;                    // rows: of each of its key heads
    int64_t units_per_stream, units_per_key, n_units, n_parts;  // parts: of the positions, of each unit
};

struct unit {
    int64_t stream, key, row;  // the first key head; the first of its rows, which lie token by token
    int n_keys, n_rows;        // rows of each key head; of all key heads not more than ROWS
};

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Threads share out the positions of a long cache, so that each reads memory from one end to the other,
// and the key heads of a short one.
static struct work work_of(const struct ggml_tensor *dst, const struct kind *kind, int n_threads) {
    struct work w = {
        .dst = dst, .q = dst->src[0], .k = dst->src[1], .v = dst->src[2], .mask = dst->src[3],
        .sinks = dst->src[4], .kind = kind,
    };
    w.dim = w.q->ne[0];
    w.n_tokens = w.q->ne[1];
    w.n_heads = w.q->ne[2];
    w.n_positions = w.k->ne[1];
    w.n_keys = w.k->ne[2];
    w.heads_per_key = w.n_heads / w.n_keys;
    const int64_t rows = w.heads_per_key * w.n_tokens, n_streams = w.q->ne[3];
    const bool is_long = w.n_positions >= LONG * n_threads;
    w.rows_per_unit = least(rows, ROWS);
    w.keys_per_unit = least(ROWS / w.rows_per_unit, w.n_keys);
    if (!is_long) {
        w.keys_per_unit = least(w.keys_per_unit, divided_up(w.n_keys * n_streams, n_threads));
    }
    w.units_per_key = divided_up(rows, w.rows_per_unit);
    w.units_per_stream = divided_up(w.n_keys, w.keys_per_unit) * w.units_per_key;
    w.n_units = n_streams * w.units_per_stream;
    const bool is_cut = is_long && w.n_units < FEW_UNITS * n_threads && w.n_units * n_threads <= MAX_PARTS;
    w.n_parts = is_cut ? n_threads : 1;
    return w;
}

static struct unit unit_of(const struct work *w, int64_t i) {
    const int64_t in_stream = i % w->units_per_stream, row = in_stream % w->units_per_key * w->rows_per_unit;
    const int64_t key = in_stream / w->units_per_key * w->keys_per_unit;
    return (struct unit){
        .stream = i / w->units_per_stream,
        .key = key,
        .row = row,
        .n_keys = (int)least(w->n_keys - key, w->keys_per_unit),
        .n_rows = (int)least(w->heads_per_key * w->n_tokens - row, w->rows_per_unit),
    };
}

static int64_t token_of(const struct work *w, const struct unit *u, int i) {
    return (u->row + i % u->n_rows) / w->heads_per_key;
}

static int64_t head_of(const struct work *w, const struct unit *u, int i) {
    return (u->key + i / u->n_rows) * w->heads_per_key + (u->row + i % u->n_rows) % w->heads_per_key;
}

static const uint16_t *mask_of(const struct work *w, const struct unit *u, int i, int64_t first) {
    const struct ggml_tensor *m = w->mask;
    if (!m) {
        return NULL;
    }
    const size_t head = (size_t)(head_of(w, u, i) % m->ne[2]), stream = (size_t)(u->stream % m->ne[3]);
    return (const uint16_t *)((const char *)m->data + (size_t)token_of(w, u, i) * m->nb[1] +
                              head * m->nb[2] + stream * m->nb[3]) +
           first;
}

static struct cache cache_of(const struct ggml_tensor *t, const struct work *w, const struct unit *u,
                             int key) {
    const size_t stream = (size_t)(u->stream / (w->q->ne[3] / t->ne[3]));
    const size_t offset = (size_t)(u->key + key) * t->nb[2] + stream * t->nb[3];
    return (struct cache){(const char *)t->data + offset, t->nb[1]};
}

static void read_queries(const struct work *w, const struct unit *u, float (*q)[MAX_DIM]) {
    const float scale = w->kind->softcap != 0 ? w->kind->scale / w->kind->softcap : w->kind->scale;
    for (int i = 0; i < u->n_keys * u->n_rows; i++) {
        const float *const from =
            (const float *)((const char *)w->q->data + (size_t)token_of(w, u, i) * w->q->nb[1] +
                            (size_t)head_of(w, u, i) * w->q->nb[2] + (size_t)u->stream * w->q->nb[3]);
        for (int64_t d = 0; d < w->dim; d++) {
            q[i][d] = from[d] * scale;
        }
    }
}

// A few rows of one key head, which are computed together.
struct tile {
    struct cache keys, values;
    int row, n;
    int stop;  // no row sees a position of the block from here on
};

static int tiles_of(const struct work *w, const struct unit *u, struct tile *tiles) {
    int n_tiles = 0;
    for (int key = 0; key < u->n_keys; key++) {
        const struct cache keys = cache_of(w->k, w, u, key), values = cache_of(w->v, w, u, key);
        for (int row = key * u->n_rows, left = u->n_rows; left > 0;) {
            const int n = left >= TILE ? TILE : left >= 2 ? 2 : 1;
            tiles[n_tiles++] = (struct tile){keys, values, row, n, 0};
            row += n;
            left -= n;
        }
    }
    return n_tiles;
}

// The parts of a block's work for a tile, with its number of rows known to the compiler.
#define FOR_ROWS(tile, CALL)        \
    do {                            \
        if ((tile)->n == TILE) {    \
            CALL(TILE);             \
        } else if ((tile)->n == 2) { \
            CALL(2);                \
        } else {                    \
            CALL(1);                \
        }                           \
    } while (0)

static void score(const struct tile *t, const float (*q)[MAX_DIM], int dim, int64_t first, int p,
                  float (*scores)[POSITIONS]) {
#define CALL(n) score_few(n, q + t->row, dim, &t->keys, first, p, scores + t->row)
    FOR_ROWS(t, CALL);
#undef CALL
}

static void add(const struct tile *t, const float *keep, const float (*weights)[POSITIONS], int dim,
                int64_t first, int begin, int end, struct found *f) {
#define CALL(n) \
    add_some(n, f->values + t->row, keep, weights + t->row, dim, &t->values, first, begin, end)
    FOR_ROWS(t, CALL);
#undef CALL
}

// What all tiles find in the block at `first`. Positions come first and key heads second, as they lie in
// memory: the processor then foresees what will be read.
static void look_at_block(const struct work *w, const struct unit *u, struct tile *tiles, int n_tiles,
                          const float (*q)[MAX_DIM], int64_t first, struct found *f) {
    static const float ones[4] = {1, 1, 1, 1};
    float scores[ROWS][POSITIONS], keep[ROWS];
    const uint16_t *masks[ROWS];
    const int dim = (int)w->dim, step = u->n_keys > 1 ? FEW : POSITIONS;
    for (struct tile *t = tiles; t < tiles + n_tiles; t++) {
        t->stop = 0;
        for (int r = t->row; r < t->row + t->n; r++) {
            masks[r] = mask_of(w, u, r, first);
            t->stop = (int)most(t->stop, seen(masks[r]));
        }
    }
    for (int p = 0; p < POSITIONS; p += AT_ONCE) {
        for (const struct tile *t = tiles; t < tiles + n_tiles; t++) {
            if (p < t->stop) {
                score(t, q, dim, first, p, scores);
            }
        }
    }
    for (const struct tile *t = tiles; t < tiles + n_tiles; t++) {
        for (int r = t->row; t->stop > 0 && r < t->row + t->n; r++) {
            keep[r] = weigh(scores[r], t->stop, masks[r], w->kind->softcap, &f->max[r], &f->weights[r]);
        }
    }
    for (int p = 0; p < POSITIONS; p += step) {
        for (const struct tile *t = tiles; t < tiles + n_tiles; t++) {
            if (p < t->stop) {
                add(t, p ? ones : keep + t->row, (const float(*)[POSITIONS])scores, dim, first, p,
                    (int)least(p + step, t->stop), f);
            }
        }
    }
}

// What the unit finds in the positions from `first` up to `stop`.
static void look(const struct work *w, const struct unit *u, int64_t first, int64_t stop, struct found *f) {
    float q[ROWS][MAX_DIM];
    struct tile tiles[ROWS];
    const int n_tiles = tiles_of(w, u, tiles);
    read_queries(w, u, q);
    for (int i = 0; i < u->n_keys * u->n_rows; i++) {
        f->max[i] = -INFINITY;
        f->weights[i] = 0;
        memset(f->values[i], 0, (size_t)w->dim * sizeof(float));
    }
    for (int64_t p = first; p < stop; p += POSITIONS) {
        look_at_block(w, u, tiles, n_tiles, q, p, f);
    }
}

// Adds what was found in another part of the positions.
static void join(const struct work *w, const struct unit *u, struct found *f, const struct found *other) {
    for (int i = 0; i < u->n_keys * u->n_rows; i++) {
        if (other->max[i] == -INFINITY) {
            continue;
        }
        const float max = f->max[i] > other->max[i] ? f->max[i] : other->max[i];
        const float a = f->max[i] == -INFINITY ? 0 : exp_of_negative(f->max[i] - max);
        const float b = exp_of_negative(other->max[i] - max);
        f->max[i] = max;
        f->weights[i] = f->weights[i] * a + other->weights[i] * b;
        for (int64_t d = 0; d < w->dim; d++) {
            f->values[i][d] = f->values[i][d] * a + other->values[i][d] * b;
        }
    }
}

// A sink takes its part of the weight and gives nothing.
static void drain(const struct work *w, const struct unit *u, struct found *f) {
    for (int i = 0; i < u->n_keys * u->n_rows; i++) {
        const float sink = ((const float *)w->sinks->data)[head_of(w, u, i)];
        const float max = f->max[i] > sink ? f->max[i] : sink;
        const float keep = f->max[i] == -INFINITY ? 0 : exp_of_negative(f->max[i] - max);
        f->weights[i] = f->weights[i] * keep + exp_of_negative(sink - max);
        for (int64_t d = 0; d < w->dim; d++) {
            f->values[i][d] *= keep;
        }
    }
}

static void finish(const struct work *w, const struct unit *u, struct found *f) {
    if (w->sinks) {
        drain(w, u, f);
    }
    for (int i = 0; i < u->n_keys * u->n_rows; i++) {
        const int64_t row = (u->stream * w->n_tokens + token_of(w, u, i)) * w->n_heads + head_of(w, u, i);
        float *const to = (float *)((char *)w->dst->data + (size_t)row * w->dst->nb[1]);
        const float share = f->weights[i] == 0 ? 0 : 1 / f->weights[i];
        for (int64_t d = 0; d < w->dim; d++) {
            to[d] = f->values[i][d] * share;
        }
    }
}

// One part of a unit; who comes last puts the parts together, always in their order.
static void look_at_part(const struct work *w, const struct unit *u, int64_t unit, int64_t part) {
    const int64_t blocks = w->n_positions / POSITIONS;
    const int64_t first = blocks * part / w->n_parts, stop = blocks * (part + 1) / w->n_parts;
    struct found *const all = w->kind->of->parts + unit * w->n_parts;
    atomic_int *const done = &w->kind->of->parts_done[unit];
    look(w, u, first * POSITIONS, stop * POSITIONS, &all[part]);
    if (atomic_fetch_add(done, 1) + 1 < w->n_parts) {
        return;
    }
    atomic_store(done, 0);
    for (int64_t i = 1; i < w->n_parts; i++) {
        join(w, u, &all[0], &all[i]);
    }
    finish(w, u, &all[0]);
}

// Computes thread `thread`'s share of a node. llama.cpp calls it with every one of its threads.
static void attend(struct ggml_tensor *dst, int thread, int n_threads, void *user) {
    const struct work w = work_of(dst, user, n_threads);
    for (int64_t i = thread; i < w.n_units * w.n_parts; i += n_threads) {
        const struct unit u = unit_of(&w, i / w.n_parts);
        if (w.n_parts > 1) {
            look_at_part(&w, &u, i / w.n_parts, i % w.n_parts);
        } else {
            struct found f;
            look(&w, &u, 0, w.n_positions, &f);
            finish(&w, &u, &f);
        }
    }
}

// ---------------------------------------------------------------- taking a node

static bool is_here(const struct ggml_tensor *t) {
    return !t || (t->data && (!t->buffer || ggml_backend_buffer_is_host(t->buffer)));
}

static bool is_cache(const struct ggml_tensor *t, const struct ggml_tensor *q) {
    return t->type == GGML_TYPE_F16 && t->nb[0] == sizeof(uint16_t) && t->ne[0] == q->ne[0] &&
           t->ne[1] % POSITIONS == 0 && q->ne[2] % t->ne[2] == 0 && q->ne[3] % t->ne[3] == 0;
}

static bool is_ours(const struct ggml_tensor *t, const struct kind *kind) {
    const struct ggml_tensor *const q = t->src[0], *k = t->src[1], *v = t->src[2], *mask = t->src[3];
    if (!knows_halves() || kind->max_bias != 0 || t->type != GGML_TYPE_F32 || !is_here(t)) {
        return false;
    }
    for (int i = 0; i < 5; i++) {
        if (!is_here(t->src[i])) {
            return false;
        }
    }
    return q->type == GGML_TYPE_F32 && q->nb[0] == sizeof(float) && q->ne[0] % GRAIN == 0 &&
           q->ne[0] <= MAX_DIM && is_cache(k, q) && is_cache(v, q) && k->ne[2] == v->ne[2] &&
           (!mask || (mask->type == GGML_TYPE_F16 && mask->nb[0] == sizeof(uint16_t)));
}

static const struct kind *kind_of(struct attention *a, const struct ggml_tensor *t) {
    for (int i = 0; i < a->n_kinds; i++) {
        if (memcmp(&a->kinds[i], t->op_params, offsetof(struct kind, params)) == 0) {
            return &a->kinds[i];
        }
    }
    if (a->n_kinds == MAX_KINDS) {
        return NULL;
    }
    struct kind *const kind = &a->kinds[a->n_kinds];
    memcpy(kind, t->op_params, offsetof(struct kind, params));
    kind->of = a;
    if (!write_custom_node_params(&kind->params, attend, kind)) {
        return NULL;
    }
    a->n_kinds++;
    return kind;
}

void take_attention(struct attention *a, struct ggml_tensor *t) {
    if (t->op != GGML_OP_FLASH_ATTN_EXT) {
        return;
    }
    const struct kind *const kind = kind_of(a, t);
    if (kind && is_ours(t, kind)) {
        turn_into_custom_node(t, &kind->params);
    }
}

struct attention *new_attention(void) { return calloc(1, sizeof(struct attention)); }

void free_attention(struct attention *a) { free(a); }
