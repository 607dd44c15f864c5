#pragma once

#include <ggml.h>
#include <stdbool.h>

struct matvec;

// For one context of llama.cpp's; NULL where there is no memory, or this processor has nothing that it needs.
struct matvec *new_matvec(void);

void free_matvec(struct matvec *m);

// Takes a node that is a product of a matrix, or of some experts' matrices, with few vectors, where it is one
// that ours knows; does nothing with any other. m may be NULL.
void take_matvec(struct matvec *m, struct ggml_tensor *t);
