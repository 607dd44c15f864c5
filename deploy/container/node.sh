#!/bin/sh
# Runs a node. One that has not joined yet waits for a code: in the file DURE_JOIN_FILE, which may come
# later, or by `dure join CODE` typed in this container. DURE_JOIN_ROOT and DURE_JOIN_NAME are read by
# `dure join`: the root's address, and the node's name.
set -eu

while [ ! -e "$DURE_NODE_DIR/node.json" ]; do
    if [ -s "${DURE_JOIN_FILE:-}" ]; then
        dure join - <"$DURE_JOIN_FILE" || sleep 10
    else
        sleep 2
    fi
done
exec dure node run "$@"
