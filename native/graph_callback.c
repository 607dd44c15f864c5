// Answers llama.cpp's callback about every node of its graph.
//
// Knows: what happens before a node is computed (a kernel may take it) and after (its input may be gathered, its
// experts noted; an all-reduce, if it is a reduction point). Refuses to know: how any of it is done.

#include <ggml.h>
#include <stdbool.h>

#include "allreduce.h"
#include "allreduce_record.h"
#include "attributes.h"
#include "clock.h"
#include "dispatch.h"
#include "expert_choices.h"
#include "importance.h"
#include "reduction_points.h"

// The graph is computed as in a step, and its partial vectors stay as they are.
static bool is_warming_up;

// Begins to compute without the other ranks, or ends it.
EXPORT void dure_warm_up(bool on) { is_warming_up = on; }

static bool reduce(struct ggml_tensor *t, bool is_alone) {
    step_stats.n_allreduces++;
    if (ggml_nelements(t) == 0) {  // of a last layer whose logits nobody wants
        return true;
    }
    struct allreduce_times *const now = current_times();
    const double start = now->begun = now->encoded = now->arrived = clock_s();
    const bool ok = is_alone || allreduce_tensor(t);
    now->ended = is_alone ? start : clock_s();
    step_stats.sync_s += now->ended - start;
    return ok;
}

// ask: llama.cpp is about to compute t, and asks whether it should call again once t is computed. user: what
// dure_kernels_new returned. A process that does not all-reduce runs a whole model; it only notes when it came
// to the reduction points, if times are kept.
EXPORT bool dure_graph_callback(struct ggml_tensor *t, bool ask, void *user) {
    const bool is_alone = !allreduce_is_open() || is_warming_up;
    const bool reduces =
        step_stats.status == ALLREDUCE_OK && (is_warming_up || times_are_kept() || !is_alone);
    struct importance *const gathered = importance_of(user);
    const bool is_choice = notes_choice(t);
    if (ask) {
        const bool is_gathered = gathered && wants_input(gathered, t);
        dispatch_node(user, t);
        return is_gathered || is_choice || (reduces && is_reduction_point(t));
    }
    if (step_stats.status != ALLREDUCE_OK) {
        return false;
    }
    if (gathered) {
        gather_input(gathered, t);
    }
    if (is_choice) {
        note_choice(t);
    }
    if ((gathered || is_choice) && !(reduces && is_reduction_point(t))) {
        return true;
    }
    return reduce(t, is_alone);
}
