"""Install what is given to others into empty environments, and run it there: `make test-packages`.

The wheel and the source, each with all that pip says it needs; then the container, on a base that
debootstrap makes, with root and buildah. It takes minutes and the network, so CI has only the tests beside
this file.
The exit status is 0 if all of it works.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import venv
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
CACHE = PROJECT / "build" / "packages"
WHEELS = CACHE / "wheels"  # that the container is made of
BASE, IMAGE = "localhost/dure-test-base", "localhost/dure-test"
RELEASE, MIRROR = "bookworm", "http://deb.debian.org/debian"
IN_BASE = "ca-certificates,python3,python3-venv"
FOR_TESTS = (
    "hypothesis",
    "httpx",
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
)  # of the group `test`
TESTS = (
    "tests/engine/test_variants.py",
    "tests/engine/test_scale.py",
    "tests/generate/test_scheduler.py",
    "tests/model/test_ggml.py",
)
STORY = ("/models/dure-demo.gguf", "Tell me a story about a goat.", "--temp", "0", "-n", "24")


def main() -> int:
    """Build, install and run; return the exit status."""
    CACHE.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    try:
        for what in (os.uname().machine, "sdist"):
            _installed(what, _built(what))
        if missing := [name for name in ("buildah", "debootstrap") if not shutil.which(name)]:
            _say(f"The container is left out: apt install {' '.join(missing)}")
        elif os.geteuid() != 0:
            _say("The container is left out: debootstrap and chroot need root")
        else:
            _container()
    except subprocess.CalledProcessError as error:
        _say(f"failed, with status {error.returncode}: {' '.join(map(str, error.cmd))}")
        return 1
    _say(f"All of it works: {(time.monotonic() - began) / 60:.0f} min")
    return 0


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def _run(*words: str | Path, **environment: str) -> None:
    subprocess.run(
        list(map(str, words)), env={**os.environ, **environment}, cwd=PROJECT, check=True
    )


def _built(what: str) -> Path:
    out = CACHE / "dist" / what
    shutil.rmtree(out, ignore_errors=True)
    _run(sys.executable, "tools/packages/build.py", what, "--out", out)
    (package,) = out.iterdir()
    return package


def _installed(what: str, package: Path) -> None:
    """Install a package into an empty environment; run the demo and some tests with it."""
    _say(f"{what}: install {package.name} ({package.stat().st_size / 1e6:.1f} MB)")
    place = CACHE / f"venv-{what}"
    venv.create(place, clear=True, with_pip=True)
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    group = project["dependency-groups"]["test"]
    tools = [one for one in group if re.split("[=><]", one)[0] in FOR_TESTS]
    python = place / "bin" / "python"
    _run(python, "-m", "pip", "install", "--quiet", package, *tools)
    _run(
        python, "-c", f"import dure; assert dure.__file__.startswith({str(place)!r}), dure.__file__"
    )
    _run(python, "-m", "pip", "check")
    _run(python, "examples/demo.py")
    _run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS)


def _container() -> None:
    """Build the image from a base without network but for Debian's packages; run the demo in it."""
    base = CACHE / "base"
    if not (base / "usr" / "bin" / "python3").exists():
        shutil.rmtree(base, ignore_errors=True)
        _run("debootstrap", "--variant=minbase", f"--include={IN_BASE}", RELEASE, base, MIRROR)
    made = _buildah("from", "scratch")
    _buildah("add", "--quiet", made, str(base), "/")
    _buildah("commit", "--quiet", made, BASE)
    _buildah("rm", made)
    WHEELS.mkdir(exist_ok=True)
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    needed = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    tools = ("pip", "cmake", "ninja")
    _run(sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", WHEELS, *needed, *tools)
    offline = CACHE / "pip.conf"
    offline.write_text("[global]\nno-index = true\n")
    volumes = ("--volume", f"{WHEELS}:/wheels:ro", "--volume", f"{offline}:/etc/pip.conf:ro")
    file = (
        "--file",
        "deploy/container/Containerfile",
        "--build-arg",
        f"BASE={BASE}",
        "--tag",
        IMAGE,
    )
    _say("container: build")
    _run(*_BUILDAH, "bud", "--isolation", "chroot", "--format", "docker", *file, *volumes, ".")
    made = _buildah("from", IMAGE)
    try:
        _buildah("copy", "--chown", "1000:1000", made, "models/dure-demo.gguf", "/models/")
        inside = (*_BUILDAH, "run", "--isolation", "chroot", made, "--")
        _run(*inside, "dure", "run", *STORY, "--ranks", "2")
        _run(*inside, "sh", "-c", _SERVED)
    finally:
        _buildah("rm", made)


# A container that serves is healthy, and one that does not is not.
_SERVED = """
! dure-healthy || exit 1
dure serve /models/dure-demo.gguf --port 8080 & server=$!
n=0
until dure-healthy; do n=$((n + 1)); [ $n -lt 120 ] || exit 1; sleep 1; done
kill $server && wait $server
"""
_BUILDAH = (
    "buildah",
    *(
        "--root",
        str(CACHE / "images"),
        "--runroot",
        str(CACHE / "running"),
        "--storage-driver",
        "vfs",
    ),
)


def _buildah(*words: str) -> str:
    done = subprocess.run(
        [*_BUILDAH, *words], stdout=subprocess.PIPE, text=True, cwd=PROJECT, check=True
    )
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
