"""The Tab key: commands, options and models, in real shells."""

from __future__ import annotations

import os
import pty
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.dure_process import DURE, Dure, Terminal

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"


@pytest.fixture
def dure(tmp_path: Path) -> Dure:
    """The program under its own name on PATH, with one model put there by hand."""
    program = Dure(tmp_path / "cache")
    command = tmp_path / "bin" / "dure"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.join(DURE)} "$@"\n')
    command.chmod(0o755)
    model = tmp_path / "models" / "village" / "goat.gguf"
    model.parent.mkdir(parents=True)
    shutil.copy(DEMO, model)
    (tmp_path / "here.gguf").symlink_to(DEMO)
    (tmp_path / "notes.txt").write_text("no model")
    program.environment |= {
        "DURE_MODELS": str(tmp_path / "models"),
        "PATH": f"{command.parent}:{Path(sys.executable).parent}:{program.environment['PATH']}",
        "HOME": str(tmp_path),
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    return program


def in_shell(dure: Dure, tmp_path: Path, *command: str) -> str:
    done = subprocess.run(
        command,
        env=dure.environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def for_bash(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `--show-completion bash` prints."""
    dure = Dure(tmp_path_factory.mktemp("cache"))
    done = dure("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert done.returncode == 0, done.stderr
    return done.stdout


def bash(dure: Dure, tmp_path: Path, for_bash: str, *words: str) -> list[str]:
    """What bash puts into COMPREPLY for these words, of which the last is being typed."""
    script = (
        f"{for_bash}\nCOMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}\n"
        '_dure_completion dure; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    return in_shell(dure, tmp_path, "bash", "--norc", "-c", script).split()


@pytest.mark.parametrize(
    ("words", "proposals"),
    [
        (("dure", "sho"), ["show"]),
        (("dure", "run", "vill"), ["village/goat.gguf"]),
        (("dure", "show", "he"), ["here.gguf"]),
        (("dure", "rm", "v"), ["village/goat.gguf"]),
        (("dure", "pull", "qwen3", ":", "0"), ["0.6b"]),
        (("dure", "pull", "gpt-oss", ":", ""), ["20b", "120b"]),
        (("dure", "run", "no"), []),
        (("dure", "run", "x", "--sync", "f"), ["f32"]),
    ],
)
def test_bash_completes_models_and_names_with_colons(
    dure: Dure, tmp_path: Path, for_bash: str, words: tuple[str, ...], proposals: list[str]
) -> None:
    """bash ends a word at a colon, so only what follows it is proposed."""
    assert bash(dure, tmp_path, for_bash, *words) == proposals


def test_the_tab_key_in_a_real_bash_completes_a_short_name(
    dure: Dure, tmp_path: Path, for_bash: str
) -> None:
    """A person at a terminal types half of it."""
    (tmp_path / "rc").write_text(f'{for_bash}\nPS1="ready> "\n')
    ours, theirs = pty.openpty()
    shell = ["bash", "--noprofile", "--rcfile", str(tmp_path / "rc"), "-i"]
    process = subprocess.Popen(
        shell, stdin=theirs, stdout=theirs, stderr=theirs, env=dure.environment, cwd=tmp_path
    )
    os.close(theirs)
    terminal = Terminal(process, ours)
    try:
        terminal.read_until("ready> ")
        terminal.type("dure pull qwen3:0\t")
        terminal.read_until("0.6b")
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_fish_completes_models(dure: Dure, tmp_path: Path) -> None:
    """Names with colons are whole words there."""
    script = 'dure --show-completion fish | source; complete --do-complete "dure pull qwen3:0"'
    assert in_shell(dure, tmp_path, "fish", "--no-config", "-c", script).split() == ["qwen3:0.6b"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_is_told_models(dure: Dure, tmp_path: Path) -> None:
    """What zsh evaluates names the model; the script itself is right zsh."""
    asked = 'env _TYPER_COMPLETE_ARGS="dure run vill" _DURE_COMPLETE=complete_zsh dure'
    script = f"dure --show-completion zsh > c.zsh; zsh -n c.zsh && {asked}"
    assert '"village/goat.gguf"' in in_shell(dure, tmp_path, "zsh", "-f", "-c", script)


def test_the_completion_of_a_shell_can_be_installed(dure: Dure, tmp_path: Path) -> None:
    """`--install-completion bash` writes where bash will read it."""
    in_shell(dure, tmp_path, "dure", "--install-completion", "bash")
    assert "dure" in (tmp_path / ".bashrc").read_text()


def test_a_broken_configuration_does_not_break_the_tab_key(
    dure: Dure, tmp_path: Path, for_bash: str
) -> None:
    """Nothing but proposals may appear in the middle of a line."""
    (tmp_path / ".config" / "dure").mkdir(parents=True)
    (tmp_path / ".config" / "dure" / "config.toml").write_text("[")
    assert bash(dure, tmp_path, for_bash, "dure", "run", "vill") == ["village/goat.gguf"]
