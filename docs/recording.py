"""Records commands on a terminal as a moving SVG picture: `make recording`.

The commands really run, each on a terminal of its own that this script watches; what it shows, and when,
becomes a picture that needs no script and nothing from elsewhere. Pauses are shortened, nothing else is
changed. Knows as much of terminals as these commands use: colours, and moves within and between lines.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fcntl import ioctl
from html import escape
from pathlib import Path
from typing import TypeAlias

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "recording.svg"
COMMANDS = (
    'dure run models/dure-demo.gguf "Tell me a story about five small computers." --ranks 2 --seed 2 -v',
    "dure plan qwen3:30b-a3b --nodes pi5-8gb:4 | head -n 9",
)

COLUMNS, ROWS = 104, 27
LETTER_S, LONGEST_PAUSE_S, STEP_S, AFTER_S, END_S = 0.035, 0.7, 0.1, 1.2, 4.0
WIDTH, HEIGHT, EDGE = 8.4, 18, 16  # of a letter, of a line, around them: pixels
COLOURS = {
    "": "#d7dbe0", "30": "#4b5563", "31": "#f28b82", "32": "#8fd19e", "33": "#f2cc60", "34": "#8ab4f8",
    "35": "#d7aefb", "36": "#78d9ec", "37": "#d7dbe0", "90": "#8b949e",
}  # fmt: skip

_ESCAPE = re.compile(
    r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b[()][A-Z0-9]|\x1b[=>]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"
)


Pieces: TypeAlias = "tuple[tuple[str, Style], ...]"


@dataclass(frozen=True)
class Style:
    """How a letter looks."""

    colour: str = ""
    bold: bool = False
    dim: bool = False


@dataclass
class Screen:
    """The letters on a terminal, and what becomes of them when a program writes."""

    lines: list[list[tuple[str, Style]]] = field(default_factory=lambda: [[]])
    row: int = 0
    column: int = 0
    style: Style = Style()

    def write(self, text: str) -> None:
        """Show a text, whose codes are obeyed. A code may not be cut in two by the call."""
        place = 0
        for code in _ESCAPE.finditer(text):
            self._put(text[place : code.start()])
            if code[2]:
                self._obey(code[1], code[2])
            place = code.end()
        self._put(text[place:])

    def shown(self) -> tuple[Pieces, ...]:
        """Return the last lines, as pieces of one style each."""
        return tuple(tuple(_pieces(line)) for line in self.lines[-ROWS:])

    def _put(self, text: str) -> None:
        for letter in text:
            if letter == "\n":
                self.row += 1
            elif letter == "\r":
                self.column = 0
            elif letter >= " ":
                if self.column >= COLUMNS:
                    self.row, self.column = self.row + 1, 0
                line = self._line()
                line.extend([(" ", Style())] * (self.column + 1 - len(line)))
                line[self.column] = (letter, self.style)
                self.column += 1
        self._line()

    def _line(self) -> list[tuple[str, Style]]:
        while len(self.lines) <= self.row:
            self.lines.append([])
        return self.lines[self.row]

    def _obey(self, numbers: str, what: str) -> None:
        n = int(numbers) if numbers.isdigit() else 1
        if what == "A":
            self.row = max(0, self.row - n)
        elif what == "B":
            self.row += n
        elif what == "C":
            self.column += n
        elif what == "D":
            self.column = max(0, self.column - n)
        elif what == "G":
            self.column = n - 1
        elif what == "K":
            line = self._line()
            line[:] = [] if numbers == "2" else line[: self.column]
        elif what == "J":
            del self._line()[self.column :]
            del self.lines[self.row + 1 :]
        elif what == "m":
            for number in numbers.split(";"):
                self.style = _styled(self.style, number)


@dataclass(frozen=True)
class Seen:
    """What stood in a row of the screen, from a column on, from one time to another, in seconds.

    end_s None: to the end.
    """

    row: int
    column: int
    pieces: Pieces
    begin_s: float
    end_s: float | None = None


def record(commands: Sequence[str], folder: Path) -> list[tuple[float, str]]:
    """Run commands in a folder, one after the other; return what was written, and when."""
    written, now_s = [], 0.0
    for command in commands:
        written.append((now_s, "\x1b[32m$\x1b[0m "))
        for letter in command:
            now_s += LETTER_S
            written.append((now_s, letter))
        now_s += 3 * LETTER_S
        written.append((now_s, "\r\n"))
        last_s = 0.0
        for at_s, text in _run(command, folder):
            now_s += min(at_s - last_s, LONGEST_PAUSE_S)
            written.append((now_s, text))
            last_s = at_s
        now_s += AFTER_S
        written.append((now_s, "\r\n"))
    return written


def picture(written: Iterable[tuple[float, str]], title: str) -> str:
    """Return what was written as a moving picture, which begins again when it has ended."""
    seen, whole_s = _seen(written)
    whole_s += END_S
    width, height = COLUMNS * WIDTH + 2 * EDGE, ROWS * HEIGHT + 2 * EDGE
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img" '
        f'font-family="ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="14" '
        f'fill="{COLOURS[""]}">'
    )
    back = '<rect width="100%" height="100%" rx="10" fill="#16191d"/>'
    parts = [_drawn(one, whole_s) for one in seen if any(text.strip() for text, _ in one.pieces)]
    return "\n".join([head, f"<title>{escape(title)}</title>", back, *parts, "</svg>", ""])


def _run(command: str, folder: Path) -> Iterator[tuple[float, str]]:
    """Run a command on a terminal; yield what it writes, and when."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    begin_s = time.monotonic()
    process = subprocess.Popen(
        ["bash", "-c", command],
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
    )
    os.close(theirs)
    waiting = b""
    while True:
        select.select([ours], [], [])
        try:
            more = os.read(ours, 1 << 16)
        except OSError:  # on Linux, when the last program has left the terminal
            more = b""
        if not more:
            break
        whole, waiting = _whole(waiting + more)
        yield time.monotonic() - begin_s, whole.decode(errors="replace")
    os.close(ours)
    if process.wait() != 0:
        raise SystemExit(f"{command} failed")


def _whole(data: bytes) -> tuple[bytes, bytes]:
    """Divide bytes into those that are whole letters and codes, and the rest."""
    cut = len(data)
    begun = data.rfind(b"\x1b")
    if begun >= 0 and not _ESCAPE.match(data[begun:].decode(errors="replace")):
        cut = begun
    while cut and data[cut - 1] & 0xC0 == 0x80 and not _is_text(data[:cut]):
        cut -= 1
    if cut and not _is_text(data[:cut]):
        cut -= 1
    return data[:cut], data[cut:]


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _seen(written: Iterable[tuple[float, str]]) -> tuple[list[Seen], float]:
    """Return all that was to be seen, and the time of the last change.

    What is added to a line stands beside what was there; a line that changes otherwise is another.
    """
    screen, now_s = Screen(), 0.0
    found: list[Seen] = []
    parts: dict[int, list[Seen]] = {}  # of the lines that are shown
    for at_s, text in written:
        screen.write(text)
        now_s = round(at_s / STEP_S) * STEP_S
        shown = dict(enumerate(screen.shown()))
        for row in parts.keys() | shown.keys():
            was, pieces = parts.get(row, []), shown.get(row, ())
            before = tuple(piece for part in was for piece in part.pieces)
            added = _added(before, pieces)
            if added is None:
                found += [replace(part, end_s=now_s) for part in was if part.begin_s < now_s]
                parts[row], before, added = [], (), pieces
            line = parts.setdefault(row, [])
            if added and line and line[-1].begin_s == now_s:
                line[-1] = replace(line[-1], pieces=_joined(line[-1].pieces + added))
            elif added:
                column = sum(len(text) for text, _ in before)
                line.append(Seen(row, column, added, now_s))
    found += [part for line in parts.values() for part in line]
    return sorted(found, key=lambda one: (one.begin_s, one.row, one.column)), now_s


def _added(before: Pieces, after: Pieces) -> Pieces | None:
    """Return what a line has more than before, or None if it is another line."""
    was, now = _letters(before), _letters(after)
    return tuple(_pieces(now[len(was) :])) if now[: len(was)] == was else None


def _joined(pieces: Pieces) -> Pieces:
    return tuple(_pieces(_letters(pieces)))


def _letters(pieces: Pieces) -> list[tuple[str, Style]]:
    return [(letter, style) for text, style in pieces for letter in text]


def _drawn(part: Seen, whole_s: float) -> str:
    """Return a part of a line as text; the picture is without it before and after its time."""
    spans, x = [], EDGE + part.column * WIDTH
    for text, style in part.pieces:
        looks = f' fill="{COLOURS[style.colour]}"' if style.colour else ""
        looks += ' font-weight="bold"' if style.bold else ""
        looks += ' fill-opacity="0.65"' if style.dim else ""
        if letters := text.strip():
            begin = x + (len(text) - len(text.lstrip())) * WIDTH
            place = f'x="{begin:.1f}" textLength="{len(letters) * WIDTH:.1f}"'
            kept = escape(letters).replace(" ", "\u00a0")  # neighbouring blanks would become one
            spans.append(f"<tspan {place}{looks}>{kept}</tspan>")
        x += len(text) * WIDTH
    y = EDGE + (part.row + 0.75) * HEIGHT
    return f'<text y="{y:.1f}">{"".join(spans)}{_moved(part, whole_s)}</text>'


def _moved(part: Seen, whole_s: float) -> str:
    """Return when a part appears and disappears, as shares of the whole time."""
    moments = [(0.0, "hidden"), (part.begin_s, "visible")]
    moments += [(part.end_s, "hidden")] if part.end_s is not None else []
    if part.begin_s == 0:
        del moments[0]
    if len(moments) == 1:
        return ""
    times = ";".join(f"{moment_s / whole_s:.4f}".rstrip("0").rstrip(".") for moment_s, _ in moments)
    return (
        f'<animate attributeName="visibility" calcMode="discrete" dur="{whole_s:.1f}s" '
        f'repeatCount="indefinite" keyTimes="{times}" values="{";".join(v for _, v in moments)}"/>'
    )


def _pieces(line: Sequence[tuple[str, Style]]) -> Iterator[tuple[str, Style]]:
    """Join neighbours of one style; blanks at the end are left out."""
    letters = list(line)
    while letters and letters[-1][0] == " ":
        letters.pop()
    begin = 0
    for n in range(1, len(letters) + 1):
        if n == len(letters) or letters[n][1] != letters[begin][1]:
            yield "".join(letter for letter, _ in letters[begin:n]), letters[begin][1]
            begin = n


def _styled(style: Style, number: str) -> Style:
    if number in ("", "0"):
        return Style()
    if number in COLOURS:
        return replace(style, colour=number)
    if number == "39":
        return replace(style, colour="")
    if number in ("1", "2"):
        return replace(style, bold=number == "1", dim=number == "2")
    return replace(style, bold=False, dim=False) if number == "22" else style


def main() -> None:
    """Record the commands of the README's picture, or others, into a file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("commands", nargs="*", default=COMMANDS)
    parser.add_argument("--out", type=Path, default=PICTURE)
    chosen = parser.parse_args()
    text = picture(record(chosen.commands, ROOT), "; ".join(chosen.commands))
    chosen.out.write_text(text)


if __name__ == "__main__":
    main()
