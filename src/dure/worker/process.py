"""The main program of an engine process, which serves one model over its supervisor's Unix socket.

Started as `python -m dure.worker.process SOCKET`. Crash-only: an error is sent as one message, and the
process ends; its supervisor starts another one and resubmits the requests that ran.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

from dure.errors import DureError
from dure.processes import end_with_parent
from dure.worker import protocol as msg
from dure.worker.connection import SupervisorConnection
from dure.worker.embedding_server import EmbeddingServer
from dure.worker.generator import Generator


def main() -> None:
    """Run an engine for the supervisor whose socket is the only argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor handles Ctrl-C
    end_with_parent(signal.SIGTERM)
    unix = socket.socket(socket.AF_UNIX)
    unix.connect(sys.argv[1])
    supervisor = SupervisorConnection(unix)
    try:
        _serve(supervisor)
    except DureError as error:
        supervisor.send(msg.Fatal(error.record()))
        sys.exit(1)
    except (EOFError, ConnectionError):  # the supervisor is gone
        os._exit(1)


def _serve(supervisor: SupervisorConnection) -> None:
    start = supervisor.receive()
    assert isinstance(start, msg.Start), "the first message"
    kind = EmbeddingServer if start.options.embedding else Generator
    server = kind(start.options, supervisor)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # runs `finally`: no rank is left
    is_over = True
    try:
        supervisor.listen()
        server.run()
    except DureError:
        is_over = False  # the next engine uses the stored prefixes
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the supervisor's end may send one
        if is_over:
            server.finish()
        server.close()


if __name__ == "__main__":
    main()
