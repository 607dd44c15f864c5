// Sums a vector over all ranks, in one phase or in two, in pieces that overlap with the wire.
//
// Knows: which rank sums which blocks, and in which order. Refuses to know: when which of the two is quicker.
//
// The sum has the same bits on every rank, because every rank adds the same encoded vectors, its own included,
// in the order of the ranks. It has the same bits in one phase and in two, which a vector's length and the
// links decide: with more than two ranks a sum is rounded as if it travelled, even if it does not.

#include "phases.h"

#include <string.h>

#include "allreduce_record.h"
#include "clock.h"

enum { IN_FLIGHT = 4 };  // pieces sent ahead of those that arrived; with more of them TCP gets slower

// ---------------------------------------------------------------- slices and pieces

struct span {
    size_t start, count;  // in blocks
};

// Returns the blocks that a rank owns in the second phase.
static struct span slice_of(const struct allreduce *a, int rank) {
    const size_t n_ranks = (size_t)a->exchange->n_ranks, r = (size_t)rank;
    const size_t start = a->n_blocks * r / n_ranks, stop = a->n_blocks * (r + 1) / n_ranks;
    return (struct span){start, stop - start};
}

static size_t piece_blocks(enum wire_format wire) { return PIECE_BYTES / wire_block_bytes(wire); }

size_t n_pieces_of(enum wire_format wire, size_t n_blocks) {
    return (n_blocks + piece_blocks(wire) - 1) / piece_blocks(wire);
}

static size_t n_pieces(const struct allreduce *a, struct span span) { return n_pieces_of(a->wire, span.count); }

static struct span piece_of(const struct allreduce *a, struct span span, size_t i) {
    const size_t most = piece_blocks(a->wire), first = i * most, left = span.count - first;
    return (struct span){span.start + first, left < most ? left : most};
}

static float *values_of(const struct allreduce *a, struct span piece) {
    return a->x + piece.start * WIRE_BLOCK;
}

static uint8_t *encoded_of(const struct allreduce *a, struct span piece) {
    return a->exchange->outbox->bytes + piece.start * wire_block_bytes(a->wire);
}

static size_t n_bytes_of(const struct allreduce *a, struct span piece) {
    return piece.count * wire_block_bytes(a->wire);
}

// ---------------------------------------------------------------- a piece

static void encode_piece(const struct allreduce *a, struct span piece) {
    encode_wire_blocks(a->wire, values_of(a, piece), encoded_of(a, piece), piece.count);
}

static void clear_piece(const struct allreduce *a, struct span piece) {
    memset(values_of(a, piece), 0, piece.count * WIRE_BLOCK * sizeof(float));
}

// Adds all ranks' partial pieces, in the order of the ranks.
static void add_partials(const struct allreduce *a, struct span piece) {
    const struct exchange *const e = a->exchange;
    clear_piece(a, piece);
    for (int p = 0; p < e->n_ranks; p++) {
        const uint8_t *const partial =
            p == e->rank ? encoded_of(a, piece) : arrived_piece(e, CHANNEL_PARTIALS, p);
        add_wire_blocks(a->wire, values_of(a, piece), partial, piece.count);
    }
}

// Sets a piece to its sum, as it is on the wire.
static void set_piece(const struct allreduce *a, struct span piece, const uint8_t *encoded) {
    clear_piece(a, piece);
    add_wire_blocks(a->wire, values_of(a, piece), encoded, piece.count);
}

// ---------------------------------------------------------------- one phase

static bool send_partial(const struct allreduce *a, struct span piece) {
    uint8_t *const from = a->x ? encoded_of(a, piece) : a->exchange->outbox->bytes;
    return send_piece_to_all(a->exchange, CHANNEL_PARTIALS, from, n_bytes_of(a, piece));
}

bool allreduce_in_one_phase(const struct allreduce *a) {
    struct exchange *const e = a->exchange;
    const struct span all = {0, a->n_blocks};
    const size_t n = n_pieces(a, all);
    if (!switch_outbox(e)) {
        return false;
    }
    struct patience patience = {0};
    for (size_t n_sent = 0, n_added = 0; n_added < n;) {
        const bool may_send = n_sent < n && n_sent < n_added + IN_FLIGHT;
        if (may_send) {
            const struct span piece = piece_of(a, all, n_sent++);
            if (a->x) {
                encode_piece(a, piece);
            }
            if (n_sent == n) {
                current_times()->encoded = clock_s();
            }
            if (!send_partial(a, piece)) {
                return false;
            }
        }
        if (all_have_arrived(e, CHANNEL_PARTIALS)) {
            const struct span piece = piece_of(a, all, n_added++);
            if (n_added == n) {
                current_times()->arrived = clock_s();
            }
            if (a->x) {
                add_partials(a, piece);
                if (e->n_ranks > 2) {
                    round_to_wire(a->wire, values_of(a, piece), piece.count);
                }
            }
            if (!release_all_pieces(e, CHANNEL_PARTIALS)) {
                return false;
            }
            patience = (struct patience){0};
        } else if (!may_send && !keep_waiting(e, &patience, &e->rings[CHANNEL_PARTIALS])) {
            return false;
        }
    }
    return true;
}

// ---------------------------------------------------------------- two phases

// Sends piece i of every other rank's slice to that rank.
static bool scatter_piece(const struct allreduce *a, size_t i) {
    struct exchange *const e = a->exchange;
    for (int k = 0; k < e->n_ranks; k++) {
        const int p = (e->rank + k) % e->n_ranks;
        const struct span slice = slice_of(a, p);
        if (i >= n_pieces(a, slice)) {
            continue;
        }
        const struct span piece = piece_of(a, slice, i);
        encode_piece(a, piece);
        if (p != e->rank && !send_piece(e, CHANNEL_PARTIALS, p, encoded_of(a, piece), n_bytes_of(a, piece))) {
            return false;
        }
    }
    return true;
}

// Sums a piece of this rank's slice, and sends the sum to all.
static bool reduce_own_piece(const struct allreduce *a, struct span piece) {
    add_partials(a, piece);
    encode_piece(a, piece);
    set_piece(a, piece, encoded_of(a, piece));
    return release_all_pieces(a->exchange, CHANNEL_PARTIALS) &&
           send_piece_to_all(a->exchange, CHANNEL_SUMS, encoded_of(a, piece), n_bytes_of(a, piece));
}

// Takes the next sum of every other rank's slice, if it has arrived. n_gathered: [n_ranks] pieces that were
// taken. n_left: of the whole vector, counted down. Returns false if it failed.
static bool gather_pieces(const struct allreduce *a, size_t *n_gathered, size_t *n_left) {
    struct exchange *const e = a->exchange;
    for (int i = 1; i < e->n_ranks; i++) {
        const int p = (e->rank + i) % e->n_ranks;
        const struct span slice = slice_of(a, p);
        if (n_gathered[p] == n_pieces(a, slice) || !has_arrived(e, CHANNEL_SUMS, p)) {
            continue;
        }
        current_times()->arrived = clock_s();
        set_piece(a, piece_of(a, slice, n_gathered[p]++), arrived_piece(e, CHANNEL_SUMS, p));
        if (!release_piece(e, CHANNEL_SUMS, p)) {
            return false;
        }
        --*n_left;
    }
    return true;
}

// Returns the pieces of the longest slice. n_left: the pieces of all slices. n_gathered: [n_ranks] is cleared.
static size_t count_pieces(const struct allreduce *a, size_t *n_gathered, size_t *n_left) {
    size_t most = 0;
    *n_left = 0;
    for (int p = 0; p < a->exchange->n_ranks; p++) {
        const size_t n = n_pieces(a, slice_of(a, p));
        most = n > most ? n : most;
        *n_left += n;
        n_gathered[p] = 0;
    }
    return most;
}

bool allreduce_in_two_phases(const struct allreduce *a) {
    struct exchange *const e = a->exchange;
    if (!switch_outbox(e)) {
        return false;
    }
    const struct span own = slice_of(a, e->rank);
    const size_t n_own = n_pieces(a, own);
    size_t n_gathered[e->n_ranks], n_left;
    const size_t n_scatter = count_pieces(a, n_gathered, &n_left);
    struct patience patience = {0};
    for (size_t n_scattered = 0, n_reduced = 0; n_left > 0;) {
        const size_t before = n_left;
        if (n_scattered < n_scatter) {
            if (!scatter_piece(a, n_scattered++)) {
                return false;
            }
            current_times()->encoded = clock_s();
        }
        if (n_reduced < n_own && all_have_arrived(e, CHANNEL_PARTIALS)) {
            if (!reduce_own_piece(a, piece_of(a, own, n_reduced++))) {
                return false;
            }
            n_left--;
        }
        if (!gather_pieces(a, n_gathered, &n_left)) {
            return false;
        }
        const enum channel awaited = n_reduced < n_own ? CHANNEL_PARTIALS : CHANNEL_SUMS;
        if (n_left < before) {
            patience = (struct patience){0};
        } else if (n_scattered == n_scatter && !keep_waiting(e, &patience, &e->rings[awaited])) {
            return false;
        }
    }
    return true;
}
