#pragma once

#include <ggml.h>
#include <stdbool.h>

// Tells whether this process all-reduces.
bool allreduce_is_open(void);

// Sums a tensor of float32 over all ranks, in place. Records a failure and returns false if it failed.
bool allreduce_tensor(struct ggml_tensor *t);

// Waits for all ranks; returns at once in a process that does not all-reduce.
void wait_for_all_ranks(void);
