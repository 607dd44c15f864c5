"""How the same dure as here comes to run in a pod: what is there is kept, what is missing is installed.

Knows the scripts, which run with `sh` there. A build of torch that the image has is used. Refuses to know
how scripts get there.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from shlex import quote

from dure.cluster.add.package import Package
from dure.cluster.add.preparing import CMAKE_ARGS, COMPILER_BYTES
from dure.tune.needed import NEEDED

__all__ = ["PodFacts", "digest", "find_script", "install_script", "pod_facts", "requirement"]

_MARK = "dure:"
# Whether a Python has what tuning needs, and the very code that runs at home.
_CHECK = """import hashlib, sys
from importlib.util import find_spec
from pathlib import Path
if any(find_spec(name) is None for name in ("dure", *sys.argv[2:])): sys.exit(1)
root, found = Path(find_spec("dure").origin).parent, hashlib.sha256()
for path in sorted(root.rglob("*.py")):
    found.update(str(path.relative_to(root)).encode() + path.read_bytes())
sys.exit(found.hexdigest()[:16] != sys.argv[1])"""
_TORCH = "import torch; print('torch==' + torch.__version__)"
_VOLUME = "${DURE_POD_VOLUME:-WHERE}/dure-tune"

_FIND = """
say() { echo "dure:$1=$2"; }
base=@VOLUME@
mkdir -p "$base" && say base "$base"
say free_kib "$(df -Pk "$base" | awk 'NR == 2 { print $4 }')"
for one in "$base/venv/bin/python" python3 python3.13 python3.12 python3.11; do
    command -v "$one" >/dev/null || continue
    "$one" -P -c @CHECK@ @DIGEST@ @NEEDED@ 2>/dev/null || continue
    say python "$one"
    break
done
command -v rsync >/dev/null && say rsync yes
exit 0
"""

_INSTALL = """set -e
base=@VOLUME@
cd "$base"
if command -v flock >/dev/null; then exec 9>lock; flock 9; fi
if ! command -v rsync >/dev/null; then apt-get -q update && apt-get -q install -y rsync; fi
for python in python3 python3.13 python3.12 python3.11 ""; do
    [ -n "$python" ] || { echo "the image has no Python 3.11 or newer with venv"; exit 1; }
    "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' && break
done 2>/dev/null
export TMPDIR="$base/build" PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
rm -rf build && mkdir build
state=${DURE_POD_STATE:-/var/lib/dure-pod} # a compiler at work is no idleness
{ while kill -0 $$; do printf . >>"$state/work"; sleep 20; done; } >/dev/null 2>&1 9>&- &
export CMAKE_ARGS=@CMAKE@
export CMAKE_BUILD_PARALLEL_LEVEL=$(awk -v cores="$(getconf _NPROCESSORS_ONLN)" '/^MemTotal:/ {
    n = int($2 * 1024 / @BYTES@); if (n > cores) n = cores; print n < 1 ? 1 : n }' /proc/meminfo)
"$python" -m venv --system-site-packages venv
: >torch.txt
"$python" -c @TORCH@ >torch.txt 2>/dev/null || : >torch.txt
venv/bin/python -m pip install --progress-bar off --constraint torch.txt @WORDS@
venv/bin/python -P -c @CHECK@ @DIGEST@ @NEEDED@ || {
    echo "what was installed is not the dure of home"; exit 1; }
rm -rf build brought
"""


def digest() -> str:
    """Return what tells this code from any other: of every module of dure."""
    root, found = Path(__file__).parents[2], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return found.hexdigest()[:16]


class PodFacts(dict[str, str]):
    """What the script has found. base: the folder of runs. python: the program that has this dure."""

    @property
    def base(self) -> str:
        """The folder in which runs lie, on the volume."""
        return self["base"]

    @property
    def python(self) -> str:
        """The Python that runs them; "" if dure has to be installed first."""
        return self.get("python", "")

    @property
    def is_ready(self) -> bool:
        """Whether nothing has to be installed."""
        return bool(self.python) and "rsync" in self

    @property
    def free_bytes(self) -> int:
        """What is free on the volume."""
        return int(self.get("free_kib") or 0) * 1024


def pod_facts(lines: str) -> PodFacts:
    """Read what the script printed."""
    found = (line.partition("=") for line in lines.splitlines() if line.startswith(_MARK))
    return PodFacts({key.removeprefix(_MARK): value for key, _, value in found})


def find_script(volume: str) -> str:
    """Return the script that says what a pod has. volume: the path that a stop keeps."""
    return _filled(_FIND, volume)


def install_script(package: Package, volume: str) -> str:
    """Return the script that installs this dure, and says so by its status."""
    script = _filled(_INSTALL, volume).replace("@WORDS@", requirement(package))
    return script.replace("@CMAKE@", quote(CMAKE_ARGS)).replace("@BYTES@", str(COMPILER_BYTES))


def requirement(package: Package) -> str:
    """Return what pip is told, with what tuning needs, as a word of the shell."""
    if package.path is not None:
        name = "dure" if package.path.is_dir() else package.file_name
        return f'"$base"/brought/{quote(name)}"[tune]"'
    return quote(package.words.replace("dure", "dure[tune]", 1))


def _filled(script: str, volume: str) -> str:
    for word, value in (
        ("VOLUME", f'"{_VOLUME}"'.replace("WHERE", volume)),
        ("CHECK", quote(_CHECK)),
        ("DIGEST", digest()),
        ("NEEDED", " ".join(NEEDED)),
        ("TORCH", quote(_TORCH)),
    ):
        script = script.replace(f"@{word}@", value)
    return script
