// Cuts the work of an attention node into units and tiles, and finds what they read and write.
//
// Knows: the axes of the node's tensors, and what pays for how many threads. Refuses to know: how attention is
// computed.

#include "attention_work.h"

enum {
    LONG = 512,     // positions for each thread
    FEW_UNITS = 4,  // for each thread
};

static int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Threads share the chunks of a long cache (flash-decoding's split-K), so that each reads memory from one end
// to the other, and the KV heads of a short one.
struct attention_work cut_attention(const struct ggml_tensor *dst, float scale, float softcap, int n_threads) {
    struct attention_work w = {
        .dst = dst,
        .q = dst->src[0],
        .k = dst->src[1],
        .v = dst->src[2],
        .mask = dst->src[3],
        .sinks = dst->src[4],
        .scale = scale,
        .softcap = softcap,
    };
    w.head_dim = w.q->ne[0];
    w.n_tokens = w.q->ne[1];
    w.n_heads = w.q->ne[2];
    w.n_positions = w.k->ne[1];
    w.n_kv_heads = w.k->ne[2];
    w.heads_per_kv = w.n_heads / w.n_kv_heads;
    const int64_t rows = w.heads_per_kv * w.n_tokens, n_streams = w.q->ne[3];
    const bool is_long = w.n_positions >= LONG * n_threads;
    w.rows_per_unit = min_of(rows, ATTENTION_ROWS);
    w.kv_heads_per_unit = min_of(ATTENTION_ROWS / w.rows_per_unit, w.n_kv_heads);
    if (!is_long) {
        w.kv_heads_per_unit = min_of(w.kv_heads_per_unit, divided_up(w.n_kv_heads * n_streams, n_threads));
    }
    w.units_per_kv_head = divided_up(rows, w.rows_per_unit);
    w.units_per_stream = divided_up(w.n_kv_heads, w.kv_heads_per_unit) * w.units_per_kv_head;
    w.n_units = n_streams * w.units_per_stream;
    while (chunk_start(w.n_chunks) < w.n_positions) {
        w.n_chunks++;
    }
    w.is_shared = is_long && n_threads > 1 && w.n_units < FEW_UNITS * n_threads &&
                  w.n_units * w.n_chunks <= MAX_SHARED_CHUNKS;
    return w;
}

struct attention_unit attention_unit_of(const struct attention_work *w, int64_t i) {
    const int64_t in_stream = i % w->units_per_stream;
    const int64_t row = in_stream % w->units_per_kv_head * w->rows_per_unit;
    const int64_t kv_head = in_stream / w->units_per_kv_head * w->kv_heads_per_unit;
    return (struct attention_unit){
        .stream = i / w->units_per_stream,
        .kv_head = kv_head,
        .row = row,
        .n_kv_heads = (int)min_of(w->n_kv_heads - kv_head, w->kv_heads_per_unit),
        .n_rows = (int)min_of(w->heads_per_kv * w->n_tokens - row, w->rows_per_unit),
    };
}

void read_queries(const struct attention_work *w, const struct attention_unit *u, float (*q)[MAX_HEAD_DIM]) {
    const float scale = w->softcap != 0 ? w->scale / w->softcap : w->scale;
    for (int i = 0; i < n_rows_of(u); i++) {
        const float *const from =
            (const float *)((const char *)w->q->data + (size_t)token_of(w, u, i) * w->q->nb[1] +
                            (size_t)head_of(w, u, i) * w->q->nb[2] + (size_t)u->stream * w->q->nb[3]);
        for (int64_t d = 0; d < w->head_dim; d++) {
            q[i][d] = from[d] * scale;
        }
    }
}

// Returns the keys or the values of one of the unit's KV heads.
static struct kv_view kv_of(const struct ggml_tensor *t, const struct attention_work *w,
                            const struct attention_unit *u, int kv_head) {
    const size_t stream = (size_t)(u->stream / (w->q->ne[3] / t->ne[3]));
    const size_t offset = (size_t)(u->kv_head + kv_head) * t->nb[2] + stream * t->nb[3];
    return (struct kv_view){(const char *)t->data + offset, t->nb[1]};
}

int cut_tiles(const struct attention_work *w, const struct attention_unit *u, struct tile *tiles) {
    int n_tiles = 0;
    for (int head = 0; head < u->n_kv_heads; head++) {
        const struct kv_view k = kv_of(w->k, w, u, head), v = kv_of(w->v, w, u, head);
        for (int row = head * u->n_rows, left = u->n_rows; left > 0;) {
            const int n = left >= TILE_ROWS ? TILE_ROWS : left >= 2 ? 2 : 1;
            tiles[n_tiles++] = (struct tile){k, v, row, n, 0};
            row += n;
            left -= n;
        }
    }
    return n_tiles;
}
