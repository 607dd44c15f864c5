// Exchanges pieces of vectors between all ranks, through MPI.
//
// Knows: rings of posted receives, outboxes, deadlines. Refuses to know: what the bytes mean, and how they are
// summed.

#include "exchange.h"

#include <sched.h>
#include <stdlib.h>

#include "allreduce_record.h"
#include "clock.h"

enum { RING_SLOTS = 8, SPINS_BETWEEN_CHECKS = 64 };

static const int tags[N_CHANNELS] = {[CHANNEL_PARTIALS] = 7, [CHANNEL_SUMS] = 8};

// ---------------------------------------------------------------- opening and closing

static bool post_receives(const struct exchange *e, struct piece_ring *ring, int tag) {
    for (int i = 0; i < e->n_ranks * RING_SLOTS; i++) {
        const int p = i / RING_SLOTS;
        uint8_t *const piece = ring->bytes + (size_t)i * PIECE_BYTES;
        if (p != e->rank &&
            (MPI_Recv_init(piece, PIECE_BYTES, MPI_BYTE, p, tag, e->comm, &ring->requests[i]) != MPI_SUCCESS ||
             MPI_Start(&ring->requests[i]) != MPI_SUCCESS)) {
            return allreduce_failed(ALLREDUCE_MPI_FAILED);
        }
    }
    return true;
}

static bool open_ring(const struct exchange *e, struct piece_ring *ring, int tag) {
    const size_t n_ranks = (size_t)e->n_ranks, n = n_ranks * RING_SLOTS;
    ring->requests = malloc(n * sizeof *ring->requests);
    ring->bytes = malloc(n * PIECE_BYTES);
    ring->n_released = calloc(n_ranks, sizeof *ring->n_released);
    ring->has_arrived = calloc(n_ranks, sizeof *ring->has_arrived);
    if (!ring->requests || !ring->bytes || !ring->n_released || !ring->has_arrived) {
        free(ring->requests);
        ring->requests = NULL;
        return allreduce_failed(ALLREDUCE_NO_MEMORY);
    }
    for (size_t i = 0; i < n; i++) {
        ring->requests[i] = MPI_REQUEST_NULL;
    }
    return post_receives(e, ring, tag);
}

static void close_ring(const struct exchange *e, struct piece_ring *ring) {
    for (int i = 0; ring->requests && i < e->n_ranks * RING_SLOTS; i++) {
        if (ring->requests[i] != MPI_REQUEST_NULL) {
            MPI_Cancel(&ring->requests[i]);
            MPI_Wait(&ring->requests[i], MPI_STATUS_IGNORE);
            MPI_Request_free(&ring->requests[i]);
        }
    }
    free(ring->requests);
    free(ring->bytes);
    free(ring->n_released);
    free(ring->has_arrived);
    *ring = (struct piece_ring){0};
}

static bool open_outboxes(struct exchange *e, size_t max_bytes, size_t max_sends) {
    bool is_there = true;
    for (struct outbox *o = e->outboxes; o < e->outboxes + 2; o++) {
        o->bytes = calloc(max_bytes, 1);
        o->requests = calloc(max_sends, sizeof *o->requests);
        o->n_requests = 0;
        is_there &= o->bytes && o->requests;
    }
    e->outbox = e->outboxes;
    return is_there ? true : allreduce_failed(ALLREDUCE_NO_MEMORY);
}

bool join_exchange(struct exchange *e, double wait_s) {
    e->wait_s = wait_s;
    if (MPI_Comm_dup(MPI_COMM_WORLD, &e->comm) != MPI_SUCCESS) {
        return allreduce_failed(ALLREDUCE_MPI_FAILED);
    }
    MPI_Comm_set_errhandler(e->comm, MPI_ERRORS_RETURN);
    MPI_Comm_rank(e->comm, &e->rank);
    MPI_Comm_size(e->comm, &e->n_ranks);
    return true;
}

bool open_exchange(struct exchange *e, size_t max_bytes, size_t max_sends) {
    if (!open_outboxes(e, max_bytes, max_sends)) {
        return false;
    }
    for (int channel = 0; channel < N_CHANNELS; channel++) {
        if (!open_ring(e, &e->rings[channel], tags[channel])) {
            return false;
        }
    }
    return true;
}

void close_exchange(struct exchange *e) {
    if (switch_outbox(e) && switch_outbox(e)) {
        MPI_Barrier(e->comm);  // until then others may need this rank's progress for their sends
    }
    for (int channel = 0; channel < N_CHANNELS; channel++) {
        close_ring(e, &e->rings[channel]);
    }
    for (struct outbox *o = e->outboxes; o < e->outboxes + 2; o++) {
        free(o->bytes);
        free(o->requests);
        *o = (struct outbox){0};
    }
    e->n_ranks = 0;
}

// ---------------------------------------------------------------- receiving

static size_t next_slot(const struct piece_ring *ring, int p) {
    return (size_t)p * RING_SLOTS + ring->n_released[p] % RING_SLOTS;
}

bool has_arrived(struct exchange *e, enum channel channel, int p) {
    struct piece_ring *const ring = &e->rings[channel];
    int done = ring->has_arrived[p];
    if (!done && MPI_Test(&ring->requests[next_slot(ring, p)], &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) {
        return allreduce_failed(ALLREDUCE_MPI_FAILED);
    }
    return ring->has_arrived[p] = done;
}

bool all_have_arrived(struct exchange *e, enum channel channel) {
    bool all = true;
    for (int i = 1; i < e->n_ranks; i++) {
        all &= has_arrived(e, channel, (e->rank + i) % e->n_ranks);
    }
    return all;
}

const uint8_t *arrived_piece(const struct exchange *e, enum channel channel, int p) {
    return e->rings[channel].bytes + next_slot(&e->rings[channel], p) * PIECE_BYTES;
}

bool release_piece(struct exchange *e, enum channel channel, int p) {
    struct piece_ring *const ring = &e->rings[channel];
    if (MPI_Start(&ring->requests[next_slot(ring, p)]) != MPI_SUCCESS) {
        return allreduce_failed(ALLREDUCE_MPI_FAILED);
    }
    ring->has_arrived[p] = false;
    ring->n_released[p]++;
    return true;
}

bool release_all_pieces(struct exchange *e, enum channel channel) {
    for (int i = 1; i < e->n_ranks; i++) {
        if (!release_piece(e, channel, (e->rank + i) % e->n_ranks)) {
            return false;
        }
    }
    return true;
}

// ---------------------------------------------------------------- sending

bool send_piece(struct exchange *e, enum channel channel, int p, const uint8_t *piece, size_t n_bytes) {
    MPI_Request *const request = &e->outbox->requests[e->outbox->n_requests];
    if (MPI_Isend(piece, (int)n_bytes, MPI_BYTE, p, tags[channel], e->comm, request) != MPI_SUCCESS) {
        return allreduce_failed(ALLREDUCE_MPI_FAILED);
    }
    e->outbox->n_requests++;
    step_stats.bytes_sent += (double)n_bytes;
    return true;
}

bool send_piece_to_all(struct exchange *e, enum channel channel, const uint8_t *piece, size_t n_bytes) {
    for (int i = 1; i < e->n_ranks; i++) {
        if (!send_piece(e, channel, (e->rank + i) % e->n_ranks, piece, n_bytes)) {
            return false;
        }
    }
    return true;
}

bool switch_outbox(struct exchange *e) {
    e->outbox = e->outbox == e->outboxes ? e->outboxes + 1 : e->outboxes;
    struct outbox *const o = e->outbox;
    struct patience patience = {0};
    for (;;) {
        int done = 0;
        if (MPI_Testall(o->n_requests, o->requests, &done, MPI_STATUSES_IGNORE) != MPI_SUCCESS) {
            return allreduce_failed(ALLREDUCE_MPI_FAILED);
        }
        if (done) {
            o->n_requests = 0;
            return true;
        }
        if (!keep_waiting(e, &patience, NULL)) {
            return false;
        }
    }
}

// ---------------------------------------------------------------- waiting

// Records the first rank that nothing came from.
static void blame_first_missing(const struct exchange *e, const struct piece_ring *awaited) {
    for (int i = 1; i < e->n_ranks && step_stats.waiting_for < 0; i++) {
        const int p = (e->rank + i) % e->n_ranks;
        step_stats.waiting_for = awaited->has_arrived[p] ? -1 : p;
    }
}

bool keep_waiting(const struct exchange *e, struct patience *patience, const struct piece_ring *awaited) {
    if (step_stats.status != ALLREDUCE_OK) {
        return false;
    }
    if (++patience->spins % SPINS_BETWEEN_CHECKS) {
        return true;
    }
    sched_yield();  // costs nothing if each rank has a core, and gains much if it has none
    const double now = clock_s();
    if (patience->since == 0) {
        patience->since = now;
    }
    if (now - patience->since <= e->wait_s) {
        return true;
    }
    if (awaited) {
        blame_first_missing(e, awaited);
    }
    return allreduce_failed(ALLREDUCE_DEADLINE);
}
