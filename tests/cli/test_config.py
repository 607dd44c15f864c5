"""Where options come from: flags, then DURE_* variables, then the file, then their defaults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from dure.cli.app import app
from dure.cli.terminal.configuration import UNCONFIGURED, check, effective, options_of
from dure.errors import UsageError
from tests.support.dure_process import Dure, as_json, error_line

FAILED, SENSELESS = 1, 2


@pytest.fixture
def dure(tmp_path: Path) -> Iterator[Dure]:
    """The program, with a configuration directory of its own."""
    program = Dure(tmp_path / "cache")
    program.environment |= {
        "XDG_CONFIG_HOME": str(tmp_path),
        "DURE_MODELS": str(tmp_path / "models"),
    }
    yield program
    assert program.left_behind() == []


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The configuration file, not there yet."""
    folder = tmp_path / "dure"
    folder.mkdir()
    return folder / "config.toml"


def settings(dure: Dure, *arguments: str, **environment: str) -> dict[str, tuple[Any, str]]:
    """Every option's value and origin."""
    rows = as_json(dure("config", "show", *arguments, "--json", **environment))
    return {f"{row['command']}.{row['option']}": (row["value"], row["origin"]) for row in rows}


# ---------------------------------------------------------------- what counts


def test_a_variable_comes_before_the_file_and_the_commands_own_before_that_of_all(
    dure: Dure, file: Path
) -> None:
    """Four places, and `config show` names the one that counts."""
    file.write_text("[defaults]\ntop-k = 7\nseed = 1\nctx = 64\n[run]\nctx = 128\nmin_p = 0.5\n")
    found = settings(dure, DURE_TOP_K="9", DURE_SEED="2", DURE_RUN_SEED="3", DURE_TEMP="")
    assert found["run.ctx"] == (128, "file [run]")
    assert found["chat.ctx"] == (64, "file [defaults]")
    assert found["run.min-p"] == (0.5, "file [run]")
    assert found["chat.min-p"] == (None, "default")  # as the model's file says
    assert found["run.top-k"] == (9, "environment DURE_TOP_K")
    assert found["run.seed"] == (3, "environment DURE_RUN_SEED")
    assert found["chat.seed"] == (2, "environment DURE_SEED")
    assert found["run.temp"] == (None, "default")  # as the model's file says


def test_a_flag_comes_before_all(dure: Dure, file: Path) -> None:
    """What is not possible tells which of them was taken: --tries 0 is refused by its value."""
    file.write_text("[pull]\ntries = -1\n")
    name = "https://127.0.0.1:1/x.gguf"
    assert "--tries -1:" in error_line(dure("pull", name).stderr)
    assert "--tries -2:" in error_line(dure("pull", name, DURE_TRIES="-2").stderr)
    done = dure("pull", name, "--tries", "-3", DURE_PULL_TRIES="-2")
    assert "--tries -3:" in error_line(done.stderr)


def test_a_switch_can_be_set_and_unset_everywhere(dure: Dure, file: Path) -> None:
    """`json = true` in the file, and a variable that says no."""
    file.write_text("[ls]\njson = true\n")
    assert dure("ls").stdout == "[]\n"
    assert dure("ls", DURE_LS_JSON="false").stdout == ""


def test_every_option_of_every_command_takes_part() -> None:
    """What is listed is what the commands have; nothing is written down twice."""
    group: Any = get_command(app)
    listed = {(setting.command, setting.key) for setting in effective(group, {})}
    for name, command in group.commands.items():
        if name not in UNCONFIGURED:
            assert {(name, key) for key in options_of(command)} <= listed
    assert {("run", "ctx"), ("bench", "repeat"), ("pull", "tries"), ("rm", "yes")} <= listed
    assert [key for _, key in listed if key in ("help", "version")] == []


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"run": {"ctxx": 1}}, ("[run] ctxx", "no such option", "did you mean ctx")),
        ({"defaults": {"treads": 1}}, ("[defaults] treads", "threads")),
        ({"rnu": {"ctx": 1}}, ("[rnu]", "no such command", "run")),
        ({"ctx": 1}, ("ctx", "below a section", "[defaults]")),
        ({"run": {"ctx": "many"}}, ("[run] ctx = 'many'", "whole number")),
        ({"run": {"ctx": "8"}}, ("[run] ctx = '8'", "a whole number")),
        ({"run": {"ctx": 1.5}}, ("[run] ctx = 1.5", "whole number")),
        ({"run": {"ctx": True}}, ("[run] ctx = True", "a whole number")),
        ({"run": {"raw": 1}}, ("[run] raw = 1", "true or false")),
        ({"run": {"system": 3}}, ("[run] system = 3",)),
        ({"run": {"sync": "f64"}}, ("[run] sync = 'f64'", "f32")),
        ({"run": {"ctx": [1]}}, ("[run] ctx = [1]", "one value")),
        ({"serve": {"alias": "goat"}}, ("[serve] alias = 'goat'", "a list")),
        ({"serve": {"alias": ["goat", 3]}}, ("[serve] alias", "a text in quotes")),
    ],
)
def test_what_no_option_takes_is_named_with_file_and_key(
    table: dict[str, Any], words: tuple[str, ...]
) -> None:
    """One line, with what may have been meant."""
    with pytest.raises(UsageError) as caught:
        check(table, get_command(app), Path("/etc/dure.toml"))
    line = str(caught.value)
    assert "\n" not in line
    assert [word for word in ("/etc/dure.toml", *words) if word not in line] == [], line


@pytest.mark.parametrize(
    "table",
    [
        {"run": {"temp": 1, "max_tokens": 5, "sync": "f32", "raw": True}},
        {"defaults": {"json": True, "min-p": 0.1}, "bench": {"repeat": 2}},
        {"defaults": {"threads": 2}, "bench": {"threads": "1,2", "prompt": 8}},
        {"serve": {"alias": ["goat", "ox"], "port": 80, "tls-cert": "a.pem", "slots": False}},
        {},
    ],
)
def test_what_options_take_is_accepted(table: dict[str, Any]) -> None:
    """A whole number for a number, dashes and underscores alike."""
    check(table, get_command(app), Path("dure.toml"))


def test_a_broken_file_stops_every_command_but_those_that_mend_it(dure: Dure, file: Path) -> None:
    """The line and column are told; `config path` and `--help` still work."""
    file.write_text("[run\nctx = 1\n")
    done = dure("ls")
    line = error_line(done.stderr)
    assert [word for word in (str(file), "line 1", "dure config edit") if word not in line] == []
    assert done.returncode == SENSELESS
    assert dure("config", "path").stdout == f"{file}\n"


def test_a_variable_that_no_option_takes_is_named(dure: Dure) -> None:
    """The variable and its value stand in the line."""
    done = dure("run", "x.gguf", "hi", DURE_RUN_CTX="many")
    line = error_line(done.stderr)
    assert "DURE_RUN_CTX=many" in line
    assert done.returncode == SENSELESS


def test_a_file_that_is_named_must_be_there(dure: Dure, tmp_path: Path) -> None:
    """DURE_CONFIG with a typing error is no empty configuration."""
    done = dure("ls", DURE_CONFIG=str(tmp_path / "nothing.toml"))
    assert f"DURE_CONFIG names {tmp_path / 'nothing.toml'}" in error_line(done.stderr)
    assert "Usage" in dure("ls", "--help", DURE_CONFIG=str(tmp_path / "nothing.toml")).stdout
    other = tmp_path / "other.toml"
    other.write_text("[ls]\njson = true\n")
    assert dure("ls", DURE_CONFIG=str(other)).stdout == "[]\n"


# ---------------------------------------------------------------- writing the file


def test_set_and_unset_leave_the_rest_of_the_file_as_it_is(dure: Dure, file: Path) -> None:
    """Comments, order and spelling stay; a value that no option takes changes nothing."""
    file.write_text("# mine\n[run]  # one command\nmax_tokens = 5  # few\n")
    assert dure("config", "set", "run.max-tokens", 9).returncode == 0
    assert dure("config", "set", "sync", "f32").returncode == 0
    text = '# mine\n[run]  # one command\nmax_tokens = 9  # few\n\n[defaults]\nsync = "f32"\n'
    assert file.read_text() == text
    done = dure("config", "set", "run.max-tokens", "few")
    assert "max_tokens = 'few'" in error_line(done.stderr)
    assert file.read_text() == text
    assert dure("config", "unset", "run.max-tokens").returncode == 0
    assert "max_tokens" not in file.read_text()
    assert "# mine" in file.read_text()


def test_set_makes_the_file_and_its_folder(dure: Dure, tmp_path: Path) -> None:
    """The first option of a new user."""
    assert dure("config", "set", "run.ctx", 512).returncode == 0
    assert (tmp_path / "dure" / "config.toml").read_text() == "[run]\nctx = 512\n"
    assert settings(dure, "run", "--changed") == {"run.ctx": (512, "file [run]")}


def test_edit_opens_the_editor_and_checks_what_was_written(dure: Dure, tmp_path: Path) -> None:
    """A new file begins with an explanation; a mistake is told at once."""
    editor = tmp_path / "editor.sh"
    editor.write_text('#!/bin/sh\necho "[rnu]" >> "$1"\n')
    editor.chmod(0o755)
    done = dure("config", "edit", EDITOR=str(editor), VISUAL="")
    assert "[rnu]: no such command" in error_line(done.stderr)
    assert (
        (tmp_path / "dure" / "config.toml").read_text().startswith("# The values of dure's options")
    )
