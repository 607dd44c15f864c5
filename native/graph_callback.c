// Answers llama.cpp's callback about every node of its graph.
//
// Knows: what happens before a node is computed (a kernel may take it) and after (an all-reduce, if it is a
// reduction point). Refuses to know: how either is done.

#include <ggml.h>
#include <stdbool.h>

#include "allreduce.h"
#include "allreduce_record.h"
#include "attributes.h"
#include "clock.h"
#include "dispatch.h"
#include "reduction_points.h"

// ask: llama.cpp is about to compute t, and asks whether it should call again once t is computed. user: what
// dure_kernels_new returned. A process that does not all-reduce runs a whole model; it only notes when it came
// to the reduction points, if times are kept.
EXPORT bool dure_graph_callback(struct ggml_tensor *t, bool ask, void *user) {
    const bool is_alone = !allreduce_is_open();
    if (ask) {
        dispatch_node(user, t);
        return step_stats.status == ALLREDUCE_OK && !(is_alone && !times_are_kept()) && is_reduction_point(t);
    }
    if (step_stats.status != ALLREDUCE_OK) {
        return false;
    }
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
