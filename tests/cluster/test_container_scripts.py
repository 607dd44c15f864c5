"""What starts in a container: a root and a node that wait for each other, on hosts of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cluster_hosts import DURE, Machine, invited, machines

from tests.support.cluster_serving import DEMO, GREEDY, PORT, wait_until
from tests.support.needs_root import needs_root

SCRIPTS = Path(__file__).parents[2] / "deploy" / "container"
pytestmark = needs_root


def script(name: str, **environment: object) -> tuple[str, ...]:
    """Return the command that starts a script, where `dure` is this one."""
    path = f"PATH={Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    variables = [f"{name}={value}" for name, value in environment.items()]
    return ("env", path, *variables, "sh", str(SCRIPTS / name))


def is_healthy(machine: Machine) -> bool:
    """Ask as the container's health check does."""
    url = f"DURE_HEALTH_URL=http://127.0.0.1:{PORT}/health"
    words = ["env", url, sys.executable, str(SCRIPTS / "healthy.py")]
    command = machine.host.command(words)
    done = subprocess.run(command, env=machine.environment, capture_output=True, check=False)
    return done.returncode == 0


def test_a_root_serves_once_the_first_node_has_its_code(tmp_path: Path) -> None:
    """The root makes its cluster and waits; the node waits for the file with its code."""
    with machines(tmp_path, 2) as (root, node):
        root.program = script("root.sh", DURE_MODEL=DEMO)
        options = ("--insecure", "--port", PORT, "--nodes", "all", "--shares", "1,1", *GREEDY)
        serving = root.start(*options, says="no node has joined yet")
        code = tmp_path / "code"
        node.program = script(
            "node.sh", DURE_JOIN_FILE=code, DURE_JOIN_ROOT=root.host.address, DURE_JOIN_NAME="attic"
        )
        working = node.start(says="")
        assert not is_healthy(root)
        assert not is_healthy(node)
        root.program = DURE
        code.write_text(invited(root))
        wait_until(lambda: "attic of home at" in working.read_text())
        wait_until(lambda: is_healthy(node))
        wait_until(lambda: is_healthy(root))
        assert "ready" in serving.read_text()
        root.stop()
        assert not is_healthy(root)
