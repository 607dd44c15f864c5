"""The engine's process: one model, at the other end of its supervisor's Unix socket.

Started as `python -m dure.worker.process SOCKET`. Crash-only: what goes wrong is one message, and the
process ends; its supervisor starts another one and gives it the requests that ran.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys

from dure.errors import DureError
from dure.worker import protocol as msg
from dure.worker.connection import SupervisorConnection
from dure.worker.embedding_server import EmbeddingServer
from dure.worker.generator import Generator

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Run an engine for the supervisor at the socket that is the only argument, until it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's business
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through `finally`: no rank is left
    is_over = True
    try:
        supervisor.listen()
        server.run()
    except DureError:
        is_over = False  # what is stored is for the engine after this one
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it may come with the supervisor's end
        if is_over:
            server.finish()
        server.close()


if __name__ == "__main__":
    main()
