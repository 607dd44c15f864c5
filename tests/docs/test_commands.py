"""What the documents tell to type does what it says: their commands are run, page by page.

Each page's are run in its order by one shell, in an empty home, with the demo model for every model: a
hub on this machine has it under the names that the pages use. `tests/support/doc_commands.py` says how a
page marks what cannot be run here.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from dure.convert.importance import write_importance
from dure.model.gguf import open_gguf
from dure.model.store import short_names
from tests.support.doc_commands import Block, blocks, script_of
from tests.support.dure_process import WAIT_S, Dure
from tests.support.hub_server import HubServer, Repo
from tests.support.quantizing import importance_for, llama_quantized

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "models" / "dure-demo.gguf"
ELSEWHERE = {  # pages without commands to try, or whose commands have tests of their own
    "CHANGELOG.md": "history",
    "CONTRIBUTING.md": "make, for developers",
    "README.ko.md": "it has the README's commands: tests/docs/test_readme_ko.py",
    "docs/LOG.md": "measurements",
    "docs/pods.md": "tests/pods, with an emulator of the provider",
    "docs/router.md": "tests/route",
    "docs/install.md": "tests/packages, and `make test-packages`",
    "docs/monitoring.md": "it needs Prometheus and Grafana",
}
QUANTIZING = {  # a page's words, by what stands for them
    "2GB": "3MB",
    "qwen3:4b": f"models/{DEMO.name}",
    "qwen3:0.6b": f"models/{DEMO.name}",
}
WORDS = {"docs/quantization.md": QUANTIZING}
SETTINGS = {  # what a page's commands take much of by default is little here
    "docs/quantization.md": {
        "DURE_QUANTIZE_EVEN": "true",
        "DURE_QUANTIZE_TYPES": "Q2_K,Q4_0,Q4_K,Q6_K,Q8_0",
        "DURE_IMATRIX_CHUNKS": "2",
        "DURE_EVAL_CHUNKS": "2",
        "DURE_EVAL_CTX": "128",
    },
    "docs/tuning.md": {"DURE_TUNE_STEPS": "2", "DURE_TUNE_THREADS": "1"},
}
WITHOUT_MODEL = {"plan", "ps", "doctor", "config"}
QUICK = WITHOUT_MODEL | {"run", "chat", "serve", "show", "cut"}
Q4_0, Q8_0 = 2, 7  # llama.cpp's numbers of its mixtures
PORTS = ("8080", "11434")
CONTEXTS = {"16384": "2048"}  # the demo model has no more
PAGES = [
    name
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
    if (name := str(path.relative_to(ROOT))) not in ELSEWHERE
]


def commands_of(name: str) -> list[Block]:
    found = blocks((ROOT / name).read_text())
    return [block for block in found if not block.why_not and not block.on_cluster]


WITH_COMMANDS = [name for name in PAGES if commands_of(name)]


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    """A hub that has the demo model under every short name."""
    with HubServer() as server:
        for full in short_names().values():
            _, repository, kind = full.split(":")
            model = repository.partition("/")[2].removesuffix("-GGUF")
            server.repos[repository] = Repo({f"{model}-{kind}.gguf": DEMO.read_bytes()})
        yield server


@pytest.fixture
def dure(tmp_path: Path, hub: HubServer) -> Dure:
    """The program as a new user has it, in a folder like a clone of the repository."""
    program = Dure(tmp_path / "cache")
    for name in [one for one in program.environment if one.startswith(("HF_", "HUGGING", "XDG_"))]:
        del program.environment[name]
    (tmp_path / "clone" / "models").mkdir(parents=True)
    shutil.copy(DEMO, tmp_path / "clone" / "models")
    (tmp_path / "clone" / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "clone" / ".venv").symlink_to(sys.prefix)
    (tmp_path / "home").mkdir()
    program.environment |= {
        "HOME": str(tmp_path / "home"),
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "NO_PROXY": "127.0.0.1",
        "DURE_RUNTIME": str(tmp_path / "run"),
        "PATH": f"{Path(sys.executable).parent}:{program.environment['PATH']}",
    }
    return program


def free_ports(n: int) -> list[str]:
    """Ports that nobody has now, each another."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    found = [str(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return found


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_the_commands_of_a_page_run(name: str, tmp_path: Path, dure: Dure) -> None:
    """All end well, in the page's order, and leave no process behind."""
    if name == "docs/quantization.md":
        write_models(tmp_path / "clone")
    dure.environment |= SETTINGS.get(name, {})
    run_all(commands_of(name), tmp_path, dure, WORDS.get(name, {}))


def write_models(folder: Path) -> None:
    """Write the files that docs/quantization.md names: the demo model, and smaller ones made of it."""
    for name in ("qwen3-4b-bf16.gguf", "original.gguf"):
        (folder / name).symlink_to(DEMO)
    with open_gguf(DEMO) as demo:
        write_importance(folder / "qwen3-4b.imatrix.gguf", importance_for(demo))
    for name, kind in {"small": Q8_0, "a": Q8_0, "b": Q4_0, "c": Q4_0}.items():
        llama_quantized(DEMO, folder / f"{name}.gguf", kind, None)


def test_the_commands_of_the_readmes_table_run(tmp_path: Path, dure: Dure) -> None:
    """Those that take the demo model, or none, and little time: others have tests of their own."""
    typed = re.findall(r"^\| `dure ([^`]+)`", (ROOT / "README.md").read_text(), re.MULTILINE)
    chosen = [
        f"dure {one}"
        for one in typed
        if one.split()[0] in QUICK
        and (f"models/{DEMO.name}" in one or one.split()[0] in WITHOUT_MODEL)
    ]
    assert len(chosen) >= 8
    run_all([Block(n, text) for n, text in enumerate(chosen)], tmp_path, dure)


def run_all(
    commands: list[Block], tmp_path: Path, dure: Dure, words: Mapping[str, str] | None = None
) -> None:
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    instead = ports | CONTEXTS | {"MODEL": f"models/{DEMO.name}"} | dict(words or {})
    script = script_of(commands, instead)
    done = subprocess.run(
        ["bash", "-c", script],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=tmp_path / "clone",
        env=dure.environment | {"DURE_SERVE_PORT": instead["8080"]},
        timeout=2 * WAIT_S,
        check=False,
        text=True,
    )
    assert done.returncode == 0, f"{done.stderr}\n{done.stdout}"
    assert dure.left_behind() == []


def test_the_first_pages_have_commands_that_run() -> None:
    """The marks have not silenced everything."""
    assert {"README.md", "docs/start.md", "docs/serving.md", "docs/models.md"} <= {*WITH_COMMANDS}
    assert sum(len(commands_of(name)) for name in WITH_COMMANDS) > 25


PAGE = """# A page

    dure run MODEL "Hello"

Text
    that goes on.

## Not here

<!-- section not run: no boards -->

    ssh pi

### Deeper

    ssh pi-2

## Here

<!-- not run: it is long -->

    make demo

- a list

      dure ls
      dure ps

```toml
a = 1
```

```python
model.generate()
```

```python
import dure

print(dure)
```

```
dure rm
```

<!-- section run on a cluster -->

    dure cluster init

<!-- not run: it is what dure says -->

    made

## At the end

    dure cluster status
"""


def test_blocks_are_found_with_the_reasons_that_keep_them_from_running() -> None:
    found = [(one.line, one.text, one.why_not) for one in blocks(PAGE)]
    assert found == [
        (3, 'dure run MODEL "Hello"', ""),
        (12, "ssh pi", "no boards"),
        (16, "ssh pi-2", "no boards"),
        (22, "make demo", "it is long"),
        (26, "dure ls\ndure ps", ""),
        (37, "python - <<'END'\nimport dure\n\nprint(dure)\nEND", ""),
        (43, "dure rm", ""),
        (49, "dure cluster init", ""),
        (53, "made", "it is what dure says"),
        (57, "dure cluster status", ""),
    ]
    assert [one.line for one in blocks(PAGE) if one.on_cluster] == [49]
    everywhere = blocks(f"<!-- page run on a cluster -->\n{PAGE}")
    assert len([one for one in everywhere if one.on_cluster]) == 6
    page = PAGE + "\n<!-- page not run: others do -->\n"
    assert {one.why_not for one in blocks(page)} == {"others do"}


def test_a_script_stops_at_the_first_command_that_fails() -> None:
    script = script_of([Block(3, "false"), Block(5, "echo on")], {})
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=False, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "--- line 3\n"
