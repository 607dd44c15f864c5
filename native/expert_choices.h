#pragma once

#include <ggml.h>
#include <stdbool.h>

// Tells whether the experts that a node multiplies with are to be noted once it is computed: it is the last
// product of a layer with experts, and choices are kept.
bool notes_choice(const struct ggml_tensor *t);

// Notes them, if no earlier pass of the step has.
void note_choice(const struct ggml_tensor *t);
