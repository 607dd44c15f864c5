#!/opt/dure/bin/python
"""Exit with 0 if what runs in this container answers: a server at /health, a node on its port."""

import json
import os
import socket
import sys
import urllib.request
from pathlib import Path

SERVER = os.environ.get("DURE_HEALTH_URL", "http://127.0.0.1:8080/health")
NODE = Path(os.environ.get("DURE_NODE_DIR", "/state/node")) / "node.json"


def node_answers() -> bool:
    """Tell whether the node's agent listens; only its root may ask it more."""
    with socket.create_connection(("127.0.0.1", json.loads(NODE.read_text())["port"]), timeout=5):
        return True


def server_answers() -> bool:
    """Tell whether the model is loaded and answers can be had."""
    with urllib.request.urlopen(SERVER, timeout=5) as answer:  # noqa: S310 (an address of ours)
        return bool(answer.status == 200)


try:
    sys.exit(not (node_answers() if NODE.exists() else server_answers()))
except OSError as error:
    sys.exit(f"no answer: {error}")
