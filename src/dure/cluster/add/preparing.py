"""What a machine still lacks to be a node of this cluster, as the scripts that bring it.

Knows where things lie on a machine: below /opt/dure if ssh logs in as root, else below the user's home.
Pure; refuses to know how scripts get there and who runs them. They hold no backslash: not every login
shell reads one between quotes as `sh` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from shlex import quote

from dure.cluster.add.inspecting import HostFacts
from dure.cluster.add.package import Package
from dure.cluster.software import PACKAGES
from dure.cluster.trust.joining import JOIN_PORT

__all__ = [
    "AddOptions",
    "AddScript",
    "AddStep",
    "ScriptInput",
    "planned",
    "root_for",
    "service_script",
]

_SERVICE_OPTIONS = ("--quota", "--interface")  # of `dure node install`
# llama.cpp's AMX kernels crash when some compilers build them: docs/decisions/0003-no-amx.md
CMAKE_ARGS = "-DCMAKE_C_FLAGS=-U__AMX_INT8__ -DCMAKE_CXX_FLAGS=-U__AMX_INT8__"
COMPILER_BYTES = 1_000_000_000  # of memory, for one compiler of llama.cpp


class AddStep(StrEnum):
    """A step by which a machine becomes a node, in this order."""

    LOG_IN = "log in"
    CHECK = "check"
    INSTALL = "install"
    JOIN = "join"
    SERVICE = "service"
    ANSWER = "answer"


@dataclass(frozen=True)
class AddOptions:
    """How machines become nodes.

    package: what they install. name: of a single machine; "" is its host name. user: whose rights the node
    has if ssh logs in as root. root: this machine's address as they see it, HOST or HOST:PORT; "" is the
    one from which ssh reaches them. port: of this root's join server. service: install the service.
    reinstall: install dure even if the version is there.
    """

    package: Package
    name: str = ""
    user: str = "dure"
    root: str = ""
    port: int = JOIN_PORT
    service: bool = True
    reinstall: bool = False


class ScriptInput(StrEnum):
    """What a script reads from its input."""

    NOTHING = ""
    PACKAGE = "package"
    CODE = "code"


@dataclass(frozen=True)
class AddScript:
    """One script that runs on a machine, as a person would type it."""

    step: AddStep
    script: str
    sends: ScriptInput = ScriptInput.NOTHING

    @property
    def for_program(self) -> str:
        """The script as it is run here: `dure join` then says its error as a record."""
        return f"{self.script} --json" if self.step == AddStep.JOIN else self.script


def planned(
    facts: HostFacts, options: AddOptions, wanted: dict[str, str], *, member: bool
) -> list[AddScript]:
    """Return what a machine still lacks. wanted: the root's versions. member: it is in this cluster."""
    actions = []
    if options.reinstall or facts.versions != wanted:
        actions += _installing(facts, options, wanted)
    if not member:
        actions.append(AddScript(AddStep.JOIN, _join_script(facts, options), ScriptInput.CODE))
    if options.service:
        actions.append(AddScript(AddStep.SERVICE, service_script(facts)))
    return actions


def _installing(facts: HostFacts, options: AddOptions, wanted: dict[str, str]) -> list[AddScript]:
    package, words, actions = options.package, options.package.words, []
    if facts.is_root and not facts.user_exists:
        home = quote(facts.user_home)
        useradd = f"useradd --system --create-home --home-dir {home} --shell /usr/sbin/nologin"
        actions.append(AddScript(AddStep.INSTALL, f"{useradd} {quote(facts.user)}"))
    if package.path is not None:
        brought = f"{facts.base}/brought"
        is_archive = package.path.is_dir()
        words = f"{brought}/dure" if is_archive else f"{brought}/{package.file_name}"
        unpack = "tar xzf -" if is_archive else f"cat >{quote(package.file_name)}"
        room = quote(brought)
        script = f"umask 022; rm -rf {room} && mkdir -p {room} && cd {room} && {unpack}"
        actions.append(AddScript(AddStep.INSTALL, script, ScriptInput.PACKAGE))
    script = _install_script(facts, words, wanted, clear=options.reinstall)
    return [*actions, AddScript(AddStep.INSTALL, script)]


_IS_SAME = """import sys
from importlib.metadata import version
wanted = WANTED
found = {name: version(name) for name in wanted}
sys.exit(f"it got {found}, and the root has {wanted}" if found != wanted else 0)"""


def _install_script(facts: HostFacts, words: str, wanted: dict[str, str], *, clear: bool) -> str:
    """Return what installs dure, one build at a time, below `base`: /tmp is small on many boards."""
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


def _join_script(facts: HostFacts, options: AddOptions) -> str:
    name = f" --name {quote(options.name)}" if options.name else ""
    force = " --force" if facts.node_name else ""
    join = f"{_dure(facts)} join - --root {quote(root_for(facts, options))}{name}{force}"
    home = f"env HOME={quote(facts.user_home)} "
    as_user = f"runuser -u {quote(facts.user)} -- {home}" if facts.is_root else ""
    return f"cd / && {as_user}{join}"


def root_for(facts: HostFacts, options: AddOptions) -> str:
    """Return the address of the join server as the machine sees it."""
    if options.root:
        return options.root
    return f"{facts.reached_from}:{options.port}"


def service_script(facts: HostFacts) -> str:
    """Return what installs the service and starts it, or starts it again."""
    sudo = "" if facts.is_root else "sudo -n "
    return f"{sudo}{_dure(facts)} node install --user {quote(facts.user)}{_service_options(facts.unit)}"


def _service_options(unit: str) -> str:
    """Return the options of an installed service, as a person chose them."""
    given = [pair for pair in pairwise(unit.split()) if pair[0] in _SERVICE_OPTIONS]
    return "".join(f" {option} {quote(value)}" for option, value in given)


def _dure(facts: HostFacts) -> str:
    return f"env DURE_NODE_DIR={quote(facts.node_directory)} {quote(facts.base + '/venv/bin/dure')}"
