"""An idle cluster: what it costs each machine.

Three hosts (network namespaces on 1 Gbit/s links) serve the demo model with a rank on each. After one
answer there are no requests for a while; then the processor time of all processes of a host and the bytes
through its network device are counted.

    sudo -E "$(command -v python)" bench/cluster_idle.py --seconds 120

Needs root and iproute2.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
from cluster_hosts import Machine, joined, machines, processes_of
from measure import main, positive, progress

DEMO = Path(__file__).parent.parent / "models" / "dure-demo.gguf"
PORT = 18080
REST_S = 15  # until it is idle
MOST_CORE, MOST_BYTES_PER_S = 0.03, 1000.0


def cpu_s(machine: Machine) -> float:
    """Return the processor seconds of all processes on a host so far."""
    total = 0.0
    for process in processes_of(machine):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def network_bytes(machine: Machine) -> int:
    """Return the bytes received and sent by a host's network device so far, with headers."""
    command = ["ip", "-n", machine.name, "-s", "-j", "link", "show", machine.host.device]
    done = subprocess.run(command, capture_output=True, check=True)
    stats = json.loads(done.stdout)[0]["stats64"]
    return int(stats["rx"]["bytes"]) + int(stats["tx"]["bytes"])


def run() -> int:
    """Measure; return 0 if every node stays below both limits."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--seconds", type=positive, default=120, help="default %(default)s")
    options.add_argument("--json", action="store_true", help="print data as JSON")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as directory, machines(Path(directory), 3) as hosts:
        joined(*hosts)
        root = hosts[0]
        served = ("serve", DEMO, "--cluster", "--nodes", "all", "--port", PORT, "-t", 1)
        root.start(*served, says="ready")
        asked = ["curl", "-s", f"http://127.0.0.1:{PORT}/v1/completions", "-d", '{"prompt": "A"}']
        subprocess.run(root.host.command(asked), capture_output=True, check=True)
        progress(f"idle for {arguments.seconds} s")
        time.sleep(REST_S)
        before = [(cpu_s(host), network_bytes(host)) for host in hosts]
        time.sleep(arguments.seconds)
        rows = []
        for host, (cpu, sent) in zip(hosts, before, strict=True):
            core = (cpu_s(host) - cpu) / arguments.seconds
            rows.append((host.name, core, (network_bytes(host) - sent) / arguments.seconds))
    if arguments.json:
        keys = ("host", "core", "bytes_per_s")
        print(json.dumps([dict(zip(keys, row, strict=True)) for row in rows]))
    else:
        for name, core, rate in rows:
            role = "root" if name == hosts[0].name else "node"
            print(f"{name} ({role}): {core:.2%} of a core, {rate:.0f} bytes/s")
    fine = all(core < MOST_CORE and rate < MOST_BYTES_PER_S for _, core, rate in rows[1:])
    return 0 if fine else 1


if __name__ == "__main__":
    main(run)
