"""What the documents tell to type on a cluster is typed on one: five machines, from the first command on.

One is the root, where the pages' commands are typed; one joins by hand, as docs/cluster.md tells it, and
three over ssh. All are hosts with files and a network of their own. A reader does what no script does: sees
a code and types it elsewhere, ends with Ctrl-C what runs until then, and answers a question.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.doc_commands import Block, blocks, script_of
from tests.support.needs_root import needs_root
from tests.support.ssh_hosts import WAIT_S, Computer, computers, wheel

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "dure-demo.gguf"
NAMES = ("pi-0", "raspberrypi", "pi-1", "pi-4", "attic-pc")
PAGES = ("docs/cluster.md", "docs/doctor.md")

READER = """
cd /srv/clone
USER=pi  # who types on the other machines
on() {  # pi types it on a machine
    command nsenter --target "$1" --mount --net --uts --root --wd=/ \\
        runuser -u pi -- env --chdir=/home/pi HOME=/home/pi USER=pi "${@:2}"
}
until_says() {
    until grep -qs "$1" "$2"; do sleep 0.05; kill -0 "$3" || { cat "$2" >&2; return 1; }; done
}
invite_by_hand() {
    command dure cluster invite >invited 2>&1 &
    until_says "type it on the machine" invited $!
    on $BY_HAND $(grep -o 'dure join [^ ]*' invited)
    wait $!
}
run_node() {
    on $BY_HAND sh -c 'echo $$ >pid; exec dure node' >node.log 2>&1 &
    until_says " of .* at " node.log $!
    on $BY_HAND sh -c 'kill "$(cat pid)"'
    wait $! || [ $? = 143 ]
}
answers() { command dure cluster status --json | grep -q '"answers": true'; }
sudo() {
    case "$*" in
        "dure node install "*)
            on $BY_HAND sudo /usr/local/bin/"$@"
            until answers; do sleep 0.1; done ;;
        "dure node uninstall") on $OVER_SSH sudo .local/share/dure/venv/bin/"$@" ;;
        *) "$@" ;;
    esac
}
dure() {
    case "$*" in
        "cluster invite") invite_by_hand ;;
        "node") run_node ;;
        "node status" | "node leave") on $OVER_SSH .local/share/dure/venv/bin/dure "$@" ;;
        "node add "*)
            command dure cluster status >/dev/null 2>&1 || command dure cluster init
            command dure "$@" ;;
        "cluster dissolve") echo y | command script -qec "dure cluster dissolve" /dev/null ;;
        "cluster status --watch") timeout --signal INT 3 dure "$@" || [ $? = 124 ] ;;
        "serve "*) serve_behind "$@" ;;
        "bench "*) end_server; command dure "$@" ;;
        "doctor"*"--fix") yes n | command script -qec "dure $*" /dev/null || [ $? != 2 ] ;;
        "doctor"*) command dure "$@" || [ $? = 1 ] ;;
        *) command dure "$@" ;;
    esac
}
"""


def commands_of(name: str) -> list[Block]:
    return [block for block in blocks((ROOT / name).read_text()) if block.on_cluster]


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Computer]]:
    """Machines with these names; dure is on the root, and on the one that joins by hand."""
    package = wheel(tmp_path_factory.mktemp("wheel"))
    with computers(len(NAMES)) as found:
        for name, machine in zip(NAMES, found, strict=True):
            machine.run("hostname", name)
            machine.run("sh", "-c", f"echo 127.0.0.1 {name} >>/etc/hosts")
        root, by_hand, *_ = found
        program = f'#!/bin/sh\nexec {sys.executable} -m dure.cli.main "$@"\n'
        root.write("/usr/local/bin/dure", program, "755")
        root.run("sh", "-c", "rm -rf ~/.local/share/dure ~/.cache/dure ~/.config/dure")
        root.run("mkdir", "-p", "/srv/clone/models")
        root.run("cp", str(MODEL), "/srv/clone/models")
        venv = "/opt/by-hand"
        by_hand.run("python3", "-m", "venv", venv)
        install = f"cd / && {venv}/bin/python -m pip install -q --no-deps {package}"
        by_hand.run("sh", "-c", install)
        by_hand.run("ln", "-s", f"{venv}/bin/dure", "/usr/local/bin/dure")
        root.write("/srv/package", str(package))
        yield found


@pytest.mark.parametrize("name", PAGES)
@needs_root
def test_the_commands_of_a_page_run(name: str, five: list[Computer]) -> None:
    """All end well, in the page's order."""
    root, by_hand, one, two, three = five
    instead = {
        "MODEL": f"models/{MODEL.name}",
        "qwen3:4b": f"models/{MODEL.name}",
        "pi@192.168.1.11": f"pi@{one.host.address}",
        "pi@192.168.1.12": f"pi@{two.host.address}",
        "root@server": f"root@{three.host.address}",
    }
    places = {
        "BY_HAND": by_hand.process.pid,
        "OVER_SSH": one.process.pid,
        "DURE_NODE_ADD_FROM": root.run("cat", "/srv/package"),
        "DURE_SERVE_PORT": 8080,
        "DURE_BENCH_REPEAT": 1,
        **{f"DURE_{command}_SHARES": "1,1,1,1" for command in ("RUN", "SERVE", "BENCH")},
    }
    exports = "".join(f"export {name}={value}\n" for name, value in places.items())
    script = script_of(commands_of(name), instead, exports + READER)
    root.run("bash", "-c", script, wait_s=5 * WAIT_S)
