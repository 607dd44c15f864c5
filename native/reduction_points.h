#pragma once

#include <ggml.h>
#include <stdbool.h>

// Reads where the graph holds partial vectors, one point a line: "=suffix of a weight" for the products with
// it, or "^prefix of a node". Replaces what was read before. Records a failure and returns false if a line is
// not a point, or if there are too many.
bool read_reduction_points(const char *lines);

void forget_reduction_points(void);

// Tells whether a node of llama.cpp's graph is one of the points. To be asked about every node, in their
// order; about the same one again before the next.
bool is_reduction_point(const struct ggml_tensor *t);
