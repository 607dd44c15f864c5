// Sizes that all parts of attention agree on.

#pragma once

enum {
    ATTENTION_ROWS = 32,  // query rows that go through a block of positions before the next block is read
    KV_BLOCK = 64,        // positions of a block: its keys and its values fit the first cache
    MAX_HEAD_DIM = 256,
    HEAD_DIM_GRAIN = 16  // the head dimension is a multiple of it
};
