"""The docs are not older than the program: what they name is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from generate import OUTLINES, PARTS, outlines, renewed
from typer.main import get_command

from dure.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("models/*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def test_the_command_line_page_is_what_the_program_says(tmp_path: Path) -> None:
    """docs/cli.md is generated, and not stale."""
    page = tmp_path / "cli.md"
    typer = Path(sys.executable).with_name("typer")
    title = ("--name", "dure", "--title", "The command line")
    subprocess.run(
        [typer, "dure.cli.app", "utils", "docs", *title, "--output", page],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    assert (ROOT / "docs" / "cli.md").read_text() == page.read_text(), "stale: run `make docs`"


@pytest.mark.parametrize("name", PARTS)
def test_a_generated_part_is_what_the_program_says(name: str) -> None:
    """Parts of other pages are not stale either."""
    file, make = PARTS[name]
    page = (ROOT / "docs" / file).read_text()
    assert page == renewed(page, name, make()), "stale: run `make docs`"
    with pytest.raises(ValueError, match="0 places"):
        renewed("# A page", name, make())


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_to_a_file(name: str) -> None:
    """Relative links and pictures of every page exist, and so do the headings they name."""
    page = ROOT / name
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{name} links to {target}"
        assert not anchor or anchor in anchors(linked), f"{name} links to {target}"


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


def test_the_readme_links_to_pages() -> None:
    """There is something to check in the README."""
    assert re.findall(r"\]\(docs/", (ROOT / "README.md").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_every_make_target_that_a_page_names_is_there(name: str) -> None:
    """`make X` in a page is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test", "check"} <= targets
    code = "\n".join(snippets(ROOT / name))
    assert set(re.findall(r"\bmake ([a-z]+)\b", code)) <= targets


@pytest.mark.parametrize("name", NAMES)
def test_every_command_and_option_that_a_page_names_is_there(name: str) -> None:
    """`dure X --y` in a page is a command, with that option."""
    help_of = (ROOT / "docs" / "cli.md").read_text()
    group: Any = get_command(app)
    commands = set(group.commands)
    assert {"run", "chat", "pull", "ls", "rm", "show", "cut", "bench", "config"} <= commands
    typed = [snippet for snippet in snippets(ROOT / name) if not snippet.startswith("pip ")]
    for snippet in typed:
        for command, rest in re.findall(r"\bdure ([a-z]+)\b([^\n|]*)", snippet):
            assert command in commands, f"{name}: dure {command}"
            section = help_of.split(f"## `dure {command}`")[1].split("\n## ")[0]
            for option in re.findall(r"(?<!\w)--[a-z-]+", rest):
                assert f"`{option}" in section or f" {option}" in section, f"{name}: {snippet}"


def is_debian_with_its_lists() -> bool:
    release, lists = Path("/etc/os-release"), Path("/var/lib/apt/lists")
    is_debian = release.exists() and "\nID=debian\n" in release.read_text()
    return is_debian and any(lists.glob("*_Packages*"))


@pytest.mark.skipif(not is_debian_with_its_lists(), reason="it asks Debian's apt")
def test_debian_has_every_package_that_a_page_installs() -> None:
    """apt would install what a board needs from nothing, and what else the pages type."""
    lines = "\n".join(snippet for name in NAMES for snippet in snippets(ROOT / name)).split("\n")
    typed = {line.partition("apt install ")[2] for line in lines if "apt install " in line}
    assert "git python3 python3-venv build-essential" in typed
    words = " ".join(typed).split()
    packages = [word for word in words if re.fullmatch(r"[a-z0-9.+-]+", word)]  # PACKAGE is none
    subprocess.run(["apt-get", "--simulate", "install", *packages], check=True)


def test_the_commands_of_a_board_from_nothing_are_a_script() -> None:
    """A shell reads all of what a newcomer types, to the end of each quote and list."""
    page = (ROOT / "docs" / "cluster.md").read_text()
    section = page.partition("## Install dure on a board\n")[2].partition("\n## ")[0]
    script = "\n".join(re.findall(r"^ {4,6}(\S.+)$", section, re.MULTILINE))
    assert "python3 -m venv" in script
    assert "mkswap" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def snippets(page: Path) -> list[str]:
    """The lines of code of a page: fenced, indented by four, or between backticks."""
    text = page.read_text()
    fenced = re.findall(r"^```.*?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^ {4}(.+)$", text, re.MULTILINE)
    return [*fenced, *indented, *re.findall(r"`([^`\n]+)`", text)]


def test_the_tab_key_knows_every_command_as_it_is() -> None:
    """outlines.json is generated, and not stale."""
    assert outlines() == OUTLINES.read_text(), "`make docs`"
