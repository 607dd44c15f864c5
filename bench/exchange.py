"""One exchange over a 1 Gbit/s link: dure's MPI exchange against a bare spinning socket.

Two processes on two hosts (network namespaces), one CPU each, send each other the 8-bit vector of
one all-reduce, thousands of times. The socket pair (socket_floor.c, compiled at the start) is the
floor: no library can be faster over TCP. Needs root, two CPUs, a C compiler and dure.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from contenders import installed_program, mpi_environment, output
from hosts import RATE, Host, linked_hosts
from measure import BenchError, Contender, Quantity, compare, main, parser, positive, report

TARGET = 1.10
PORT = 9991
BLOCK_BYTES = 34  # 32 numbers of 8 bits and their scale: what dure exchanges
HERE = Path(__file__).resolve().parent


def run() -> int:
    """Measure what the command line asks for; return the exit status."""
    options = parser(__doc__, rounds=15)
    options.add_argument(
        "--bytes", type=positive, default=2176, metavar="B",
        help="of one vector: 2,048 numbers in 8-bit blocks of 34 bytes (default %(default)s)",
    )  # fmt: skip
    options.add_argument("--repeats", type=positive, default=5000, metavar="N",
                         help="exchanges a round (default %(default)s)")  # fmt: skip
    options.add_argument("--rate", default=RATE, help="of the link, for tc (default %(default)s)")
    arguments = options.parse_args()
    if arguments.bytes % BLOCK_BYTES:
        raise BenchError(f"--bytes {arguments.bytes}: take a multiple of {BLOCK_BYTES}, a block")
    installed_program("mpiexec")
    if len(os.sched_getaffinity(0)) < 2:
        raise BenchError("two ranks that spin need two CPUs")
    size = (arguments.bytes, arguments.repeats)
    with tempfile.TemporaryDirectory() as folder, linked_hosts(2, arguments.rate) as hosts:
        floor = _compile(HERE / "socket_floor.c", Path(folder))
        contenders = [
            Contender("dure", partial(_dure, hosts, *size)),
            Contender("socket", partial(_socket, floor, hosts, *size)),
        ]
        quantity = Quantity("exchange", f"exchange of {arguments.bytes} bytes", "s", TARGET, False)
        comparisons = compare([quantity], contenders, arguments.rounds)
    settings = {"repeats": arguments.repeats, "rounds": arguments.rounds, "link": arguments.rate}
    return report("exchange", settings, comparisons, arguments.json)


def _dure(hosts: Sequence[Host], n_bytes: int, repeats: int) -> dict[str, float]:
    program = [sys.executable, str(HERE / "exchange_rank.py"), str(n_bytes), str(repeats)]
    argv = [installed_program("mpiexec")]
    for cpu, host in enumerate(hosts):
        argv += [*([":"] if cpu else []), "-n", "1", *host.command(program, cpu)]
    before = [host.bytes_sent() for host in hosts]
    seconds = _seconds(output(argv, mpi_environment(hosts[0].device)))
    for host, sent_before in zip(hosts, before, strict=True):
        if host.bytes_sent() - sent_before < n_bytes * repeats:
            raise BenchError(f"the ranks did not talk over the link of {host.name}")
    return {"exchange": seconds}


def _socket(floor: Path, hosts: Sequence[Host], n_bytes: int, repeats: int) -> dict[str, float]:
    first, second = hosts
    size = [str(n_bytes), str(repeats)]
    with second.running([str(floor), "listen", str(PORT), *size], cpu=1) as process:
        second.wait_for_listener(process, PORT)
        connect = [str(floor), "connect", second.address, str(PORT), *size]
        return {"exchange": _seconds(output(first.command(connect, cpu=0)))}


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BenchError(f"expected the seconds of one exchange, not {text!r}") from None


def _compile(source: Path, folder: Path) -> Path:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise BenchError("no C compiler found: install one (Debian: gcc) or set CC")
    program = folder / source.stem
    output([compiler, "-O2", "-Wall", "-o", str(program), str(source)])
    return program


if __name__ == "__main__":
    main(run)
