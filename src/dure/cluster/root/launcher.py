"""The root's end of a rank on a node: what mpiexec runs, for each node, in place of ssh.

    python -m dure.cluster.root.launcher HOST PROGRAM --control-port HOST:PORT ... --proxy-id N

Asks the node that stands for HOST to start its rank, and passes on what the proxy there and mpiexec say
to each other, inside TLS. At the end it writes what the rank left behind into the job's own directory,
which is its TMPDIR.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import msgspec
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

from dure.cluster.node_api import BLOCK_BYTES, RANK_PATH, RankOrder, RankReport
from dure.cluster.root.launch_file import LaunchFile, NodeRank
from dure.cluster.root.membership import Cluster
from dure.cluster.trust.identity import asking_context
from dure.engine.ranks.job import RUNNING, Job
from dure.errors import ClusterError
from dure.whole_file import write_whole

__all__ = ["main"]

CONNECT_S = 10.0
REPORT_S = 10.0  # for a node to end its rank, and to say how it ended
MPIEXEC_ENDED = "mpiexec has ended"


def main() -> None:
    """Start a node's rank and wait until it has ended."""
    directory, host, arguments = Path(os.environ["TMPDIR"]), sys.argv[1], sys.argv[2:]
    launch = msgspec.json.decode((directory / "launch.json").read_bytes(), type=LaunchFile)
    node = launch.nodes[host]
    where = f"node {node.name} at {node.host}:{node.port}"
    running = directory / f"{node.name}{RUNNING}"
    running.touch()
    try:
        sys.exit(_run(directory, launch, node, arguments))
    except (OSError, WebSocketException) as error:
        _write_error(
            directory, node.rank, ClusterError(f"{where} does not start its rank: {error}")
        )
    except EOFError:
        lost = ClusterError(f"the line to {where} broke", "look at cable and power")
        _write_error(directory, node.rank, lost)
    finally:
        running.unlink(missing_ok=True)
    sys.exit(1)


def _run(directory: Path, launch: LaunchFile, node: NodeRank, arguments: list[str]) -> int:
    job = msgspec.json.decode((directory / "job.json").read_bytes(), type=Job)
    proxy_id = int(_value(arguments, "--proxy-id"))
    order = RankOrder(job, node.rank, node.shard, proxy_id, launch.owner, launch.shares, node.ended)
    host, _, port = _value(arguments, "--control-port").rpartition(":")
    cluster = Cluster(Path(launch.cluster))
    context = asking_context(cluster.credentials, cluster.revocations)
    plain = socket.create_connection((node.host, node.port), CONNECT_S)
    with (
        connect(
            f"wss://{node.name}:{node.port}{RANK_PATH}",
            sock=plain,
            ssl=context,
            server_hostname=node.name,
            compression=None,
            proxy=None,
            open_timeout=CONNECT_S,
            ping_interval=None,  # TCP itself rides out what it can
            max_size=None,
        ) as node_socket,
        socket.create_connection((host, int(port))) as control,
    ):
        node_socket.send(msgspec.json.encode(order))
        signal.signal(signal.SIGTERM, lambda *_: None)  # mpiexec's own end shows, and is waited for
        threading.Thread(target=_outgoing, args=(control, node_socket), daemon=True).start()
        report = _incoming(node_socket, control)
    for file, text in report.files.items():
        if "/" not in file and file.startswith("rank"):
            (directory / file).write_text(text)
    return report.exit_code


def _outgoing(control: socket.socket, node: ClientConnection) -> None:
    """Pass on what mpiexec says to the node; its end ends the rank, which then reports."""
    with contextlib.suppress(ConnectionClosed):
        with contextlib.suppress(OSError):
            while block := control.recv(BLOCK_BYTES):
                node.send(block)
        node.send(MPIEXEC_ENDED)
        time.sleep(REPORT_S)
        node.close()


def _incoming(node: ClientConnection, control: socket.socket) -> RankReport:
    """Pass on what the node says to mpiexec; return its report. Raises EOFError if none comes."""
    with contextlib.suppress(ConnectionClosed):
        for message in node:
            if isinstance(message, str):
                return msgspec.json.decode(message.encode(), type=RankReport)
            with contextlib.suppress(OSError):  # mpiexec has gone; the report may still come
                control.sendall(message)
    raise EOFError("the connection has ended")


def _value(arguments: list[str], option: str) -> str:
    return arguments[arguments.index(option) + 1]


def _write_error(directory: Path, rank: int, error: ClusterError) -> None:
    """Write an error as the rank itself would have, so that the user sees it."""
    path = directory / f"rank{rank}.error"
    with contextlib.suppress(OSError):
        if not path.exists():
            write_whole(path, msgspec.json.encode(error.record()))


if __name__ == "__main__":
    main()
