#pragma once

#include <mpi.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PIECE_BYTES = 64 * 1024 };  // a longer vector travels in pieces of this size

// What travels: the ranks' partial vectors, and the sums of the slices that ranks own.
enum channel { CHANNEL_PARTIALS, CHANNEL_SUMS, N_CHANNELS };

// The pieces of one channel from every other rank, in the order in which each rank sends them. Receives for
// the next pieces are posted at all times, so a piece that comes early lies where it belongs.
struct piece_ring {
    MPI_Request *requests;  // [n_ranks][RING_SLOTS], persistent
    uint8_t *bytes;         // [n_ranks][RING_SLOTS][PIECE_BYTES]
    size_t *n_released;     // [n_ranks] pieces that were used since the start
    bool *has_arrived;      // [n_ranks] whether the next piece has arrived
};

// What one all-reduce sends.
struct outbox {
    uint8_t *bytes;  // this rank's vector, encoded
    MPI_Request *requests;
    int n_requests;
};

// A rank's end of the exchange. A send may not be complete before its receiver calls MPI again, which it does
// in the next all-reduce; so two outboxes take turns, and no all-reduce waits for its own sends.
struct exchange {
    MPI_Comm comm;
    int rank, n_ranks;  // n_ranks: 0 if it is not open
    double wait_s;      // no rank waits longer than this for another
    struct piece_ring rings[N_CHANNELS];
    struct outbox outboxes[2], *outbox;
};

// How long nothing has moved.
struct patience {
    int spins;
    double since;
};

// All functions that return bool record a failure and return false if something went wrong; has_arrived and
// all_have_arrived also return false if it is too early.

// Joins all ranks of MPI_COMM_WORLD. All ranks call it at once.
bool join_exchange(struct exchange *e, double wait_s);

// Allocates all memory of the exchange and posts its receives. max_bytes: of an encoded vector.
// max_sends: of one all-reduce.
bool open_exchange(struct exchange *e, size_t max_bytes, size_t max_sends);

// Waits until all ranks are done, takes back the receives that are posted, and frees the memory. All ranks
// call it at once, after the same exchanges.
void close_exchange(struct exchange *e);

// Makes the other outbox the current one, once its sends are complete.
bool switch_outbox(struct exchange *e);

// Sends a piece, which lies in the current outbox, to rank p.
bool send_piece(struct exchange *e, enum channel channel, int p, const uint8_t *piece, size_t n_bytes);

bool send_piece_to_all(struct exchange *e, enum channel channel, const uint8_t *piece, size_t n_bytes);

// Tells whether the next piece of rank p has arrived.
bool has_arrived(struct exchange *e, enum channel channel, int p);

bool all_have_arrived(struct exchange *e, enum channel channel);

// Returns the next piece of rank p, which has arrived.
const uint8_t *arrived_piece(const struct exchange *e, enum channel channel, int p);

// Gives the place of rank p's next piece, which was used, to another one.
bool release_piece(struct exchange *e, enum channel channel, int p);

bool release_all_pieces(struct exchange *e, enum channel channel);

// Tells whether to go on waiting; records a missed deadline if nothing has moved for too long. awaited: the
// ring whose next pieces are awaited; NULL while sends are.
bool keep_waiting(const struct exchange *e, struct patience *patience, const struct piece_ring *awaited);
