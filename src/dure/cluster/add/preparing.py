"""What a machine still lacks to be a node of this cluster, as the scripts that bring it.

Knows where things lie on a machine: below /opt/dure where one logs in as root, else below the user's home.
Decides only; refuses to know how scripts get there and who runs them. They hold no backslash: not every
login shell reads one between quotes as `sh` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from shlex import quote

from dure.cluster.add.inspecting import Facts
from dure.cluster.add.package import Package
from dure.cluster.software import PACKAGES
from dure.cluster.trust.joining import JOIN_PORT

__all__ = ["Action", "Sends", "Step", "Wishes", "planned", "root_for", "service_script"]

_SERVICE_OPTIONS = ("--quota", "--interface")  # of `dure node install`
# llama.cpp's AMX kernels crash when some compilers build them: docs/decisions/0003-no-amx.md
CMAKE_ARGS = "-DCMAKE_C_FLAGS=-U__AMX_INT8__ -DCMAKE_CXX_FLAGS=-U__AMX_INT8__"
COMPILER_BYTES = 1_000_000_000  # what one compiler of llama.cpp may want of memory


class Step(StrEnum):
    """What is done to a machine, in this order."""

    LOG_IN = "log in"
    CHECK = "check"
    INSTALL = "install"
    JOIN = "join"
    SERVICE = "service"
    ANSWER = "answer"


@dataclass(frozen=True)
class Wishes:
    """What the machines are to become.

    package: what they install. name: of a single machine; "" is its host name. user: whose rights the node
    has where one logs in as root. root: this machine's address as they see it, HOST or HOST:PORT; "" is
    the one from which ssh reaches them. port: of this root's door.
    """

    package: Package
    name: str = ""
    user: str = "dure"
    root: str = ""
    port: int = JOIN_PORT
    service: bool = True
    reinstall: bool = False


class Sends(StrEnum):
    """What a script reads."""

    NOTHING = ""
    PACKAGE = "package"
    CODE = "code"


@dataclass(frozen=True)
class Action:
    """One script that runs on a machine."""

    step: Step
    script: str
    sends: Sends = Sends.NOTHING


def planned(facts: Facts, wishes: Wishes, wanted: dict[str, str], *, member: bool) -> list[Action]:
    """What a machine still lacks. wanted: the root's versions. member: it belongs to this cluster."""
    actions = []
    if wishes.reinstall or facts.versions != wanted:
        actions += _installing(facts, wishes, wanted)
    if not member:
        actions.append(Action(Step.JOIN, _join_script(facts, wishes), Sends.CODE))
    if wishes.service:
        actions.append(Action(Step.SERVICE, service_script(facts)))
    return actions


def _installing(facts: Facts, wishes: Wishes, wanted: dict[str, str]) -> list[Action]:
    package, words, actions = wishes.package, wishes.package.words, []
    if facts.is_root and not facts.user_exists:
        home = quote(facts.user_home)
        made = f"useradd --system --create-home --home-dir {home} --shell /usr/sbin/nologin"
        actions.append(Action(Step.INSTALL, f"{made} {quote(facts.user)}"))
    if package.path is not None:
        brought = f"{facts.base}/brought"
        is_archive = package.path.is_dir()
        words = f"{brought}/dure" if is_archive else f"{brought}/{package.file_name}"
        taken = "tar xzf -" if is_archive else f"cat >{quote(package.file_name)}"
        room = quote(brought)
        script = f"umask 022; rm -rf {room} && mkdir -p {room} && cd {room} && {taken}"
        actions.append(Action(Step.INSTALL, script, Sends.PACKAGE))
    script = _install_script(facts, words, wanted, clear=wishes.reinstall)
    return [*actions, Action(Step.INSTALL, script)]


_IS_SAME = """import sys
from importlib.metadata import version
wanted = WANTED
found = {name: version(name) for name in wanted}
sys.exit(f"it got {found}, and the root has {wanted}" if found != wanted else 0)"""


def _install_script(facts: Facts, words: str, wanted: dict[str, str], *, clear: bool) -> str:
    """Compiles below `base`, for /tmp is small memory on many boards, and one at a time."""
    base, jobs = facts.base, max(1, min(facts.cores, facts.memory_bytes // COMPILER_BYTES))
    packages = {PACKAGES[name]: version for name, version in wanted.items()}
    is_same = _IS_SAME.replace("WANTED", repr(packages))
    return f"""set -e
umask 022
mkdir -p {quote(base)}
cd {quote(base)}
if command -v flock >/dev/null; then exec 9>lock; flock 9; fi
rm -rf build && mkdir build
export TMPDIR={quote(base)}/build PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
export CMAKE_ARGS={quote(CMAKE_ARGS)} CMAKE_BUILD_PARALLEL_LEVEL={jobs}
{facts.python} -m venv {"--clear " if clear else ""}venv
venv/bin/python -m pip install --progress-bar off {quote(words)}
venv/bin/python -c {quote(is_same)}
rm -rf build brought"""


def _join_script(facts: Facts, wishes: Wishes) -> str:
    name = f" --name {quote(wishes.name)}" if wishes.name else ""
    anew = " --force" if facts.node_name else ""
    join = f"{_dure(facts)} join - --root {quote(root_for(facts, wishes))}{name}{anew}"
    home = f"env HOME={quote(facts.user_home)} "
    as_user = f"runuser -u {quote(facts.user)} -- {home}" if facts.is_root else ""
    return f"cd / && {as_user}{join}"


def root_for(facts: Facts, wishes: Wishes) -> str:
    """The address of the root's door as the machine sees it."""
    if wishes.root:
        return wishes.root
    return f"{facts.reached_from}:{wishes.port}"


def service_script(facts: Facts) -> str:
    """What installs the service and starts it, anew where it is there already."""
    sudo = "" if facts.is_root else "sudo -n "
    return f"{sudo}{_dure(facts)} node install --user {quote(facts.user)}{_kept(facts.unit)}"


def _kept(unit: str) -> str:
    """The options of a service that is there already, as a person chose them."""
    given = [pair for pair in pairwise(unit.split()) if pair[0] in _SERVICE_OPTIONS]
    return "".join(f" {option} {quote(value)}" for option, value in given)


def _dure(facts: Facts) -> str:
    return f"env DURE_NODE_DIR={quote(facts.node_directory)} {quote(facts.base + '/venv/bin/dure')}"
