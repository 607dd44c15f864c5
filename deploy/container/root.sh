#!/bin/sh
# Runs the root of a cluster: makes the cluster's authority once, waits for the first node, then serves
# DURE_MODEL. Nodes that join later are taken in while it runs. Further options of `dure serve` may follow.
set -eu

has_nodes() {
    dure cluster status --json | python3 -c 'import json, sys; sys.exit(not json.load(sys.stdin)["nodes"])'
}

[ -e "$DURE_CLUSTER_DIR/cluster.json" ] || dure cluster init
has_nodes || echo "no node has joined yet: \`dure cluster invite\` in this container shows a code"
until has_nodes; do
    sleep 5
done
exec dure serve "$DURE_MODEL" --cluster --host 0.0.0.0 "$@"
