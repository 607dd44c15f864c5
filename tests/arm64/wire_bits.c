// Encodes vectors from standard input, adds them up, and writes both: encoded blocks and sums.

#include <stdio.h>

#include "wire.h"

enum { BLOCKS = 64 };

int main(void) {
    static float x[BLOCKS * WIRE_BLOCK], sum[BLOCKS * WIRE_BLOCK];
    static unsigned char encoded[sizeof x];
    while (fread(x, sizeof x, 1, stdin) == 1) {
        encode_wire_blocks(WIRE_Q8, x, encoded, BLOCKS);
        add_wire_blocks(WIRE_Q8, sum, encoded, BLOCKS);
        fwrite(encoded, wire_block_bytes(WIRE_Q8), BLOCKS, stdout);
        fwrite(sum, sizeof sum, 1, stdout);
        add_wire_blocks(WIRE_F32, sum, x, BLOCKS);
        fwrite(sum, sizeof sum, 1, stdout);
    }
    return 0;
}
