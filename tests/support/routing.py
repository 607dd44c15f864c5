"""Runs `dure route serve` as a user does: a process on a free port, with rules in a file of its own."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dure.route.decision_log import RoutedLine, read_log
from tests.support.dure_server import Home, Serving, end


class Routing(Serving):
    """A router's process. directory: of its log and what it has learned."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        super().__init__(process)
        self.directory = directory
        self.read_until(lambda line: line.startswith("ready"))
        found = re.search(r" at (\S+);", self.lines[-1])
        assert found, self.lines
        self.url = found[1]

    def stop(self) -> str:
        """End it in good order, and return all that it wrote."""
        self.process.terminate()
        assert self.process.stderr is not None, "it is a pipe"
        rest = self.process.stderr.read().decode()
        assert self.process.wait(60) == 0, rest
        return "\n".join([*self.lines, rest])

    def log(self) -> list[RoutedLine]:
        """Return what it has logged; only an ended one has written all of it."""
        return list(read_log(self.directory / "log.jsonl"))


@contextmanager
def routing(
    directory: Path, rules: str, *arguments: object, **environment: str
) -> Iterator[Routing]:
    """Start a router with these rules, and kill it with the block."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "rules.toml").write_text(rules)
    home = Home(directory)
    home.dure.environment |= {"DURE_ROUTE": str(directory / "route"), **environment}
    process = home.dure.start(
        *("route", "serve", "--rules", directory / "rules.toml", "--port", "0", *arguments),
        stderr=subprocess.PIPE,
    )
    try:
        yield Routing(process, directory / "route")
    finally:
        end(process)


def upstream(name: str, url: str, **more: object) -> str:
    """Return the table of an upstream; `_` in a key is written `-`."""
    lines = [f"[route.upstreams.{name}]", f'url = "{url}"']
    for key, value in more.items():
        text = f'"{value}"' if isinstance(value, str) else str(value).lower()
        lines.append(f"{key.replace('_', '-')} = {text}")
    return "\n".join(lines) + "\n\n"
