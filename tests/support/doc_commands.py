"""Finds the commands that a page of the documents shows, and writes them as one script.

A block of code is commands if it is indented by four, or fenced without a language or as bash; a program
in Python is one if it imports what it uses. One that
cannot be run here says why in a comment, which a reader of the page does not see:

    <!-- not run: REASON -->            of the next block
    <!-- section not run: REASON -->    of the section in which it stands
    <!-- page not run: REASON -->       of the page

One that takes several machines has "run on a cluster" in place of "not run: REASON", and is run there.

Knows Markdown and bash. Knows nothing of what the commands do.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

__all__ = ["Block", "blocks", "script_of"]

_MARK = re.compile(r"<!-- (?:(section|page) )?(?:not run: (.+)|(run on a cluster)) -->")
_COMMANDS = {"", "bash", "sh"}

PRELUDE = """
set -eo pipefail
ready() { command curl -sf "http://$1/health" || command curl -skf "https://$1/health"; }
end_server() {
    if [ -e server.pid ]; then
        kill "$(cat server.pid)" 2>/dev/null || true
        while kill -0 "$(cat server.pid)" 2>/dev/null; do sleep 0.05; done
        rm server.pid
    fi
}
serve_behind() {  # a reader has a terminal for it; one that starts the next ends the one before
    end_server
    command dure "$@" >server.log 2>&1 &
    echo $! >server.pid
    port=$(printf '%s\\n' "$@" | sed -n '/^--port$/{n;p}')
    until ready "127.0.0.1:${port:-$DURE_SERVE_PORT}" >health.json 2>/dev/null; do
        kill -0 "$(cat server.pid)" || { cat server.log >&2; return 1; }
        sleep 0.05
    done
}
dure() {
    case "$1 $2" in
        "serve install" | "serve uninstall") command dure "$@" ;;
        "serve "* | "route serve") serve_behind "$@" ;;
        "tune "*) case " $* " in *" --serve "*) serve_behind "$@" ;; *) command dure "$@" ;; esac ;;
        "doctor "*) command dure "$@" || [ $? = 1 ] ;;  # there are findings
        *) command dure "$@" ;;
    esac
}
curl() { command curl --fail-with-body -sS "$@"; }
trap end_server EXIT
"""


@dataclass(frozen=True)
class Block:
    """Commands of a page, from a line of it on. why_not: why they are not run; "" if they are."""

    line: int
    text: str
    why_not: str = ""
    on_cluster: bool = False


@dataclass(frozen=True)
class _Marks:
    """What is known of the blocks of a page, of a section or of one block."""

    why_not: str = ""
    on_cluster: bool = False


def blocks(page: str) -> Iterator[Block]:
    """Yield a page's blocks of commands, in its order."""
    lines = page.splitlines()
    nothing = _Marks()
    marks = {"page": nothing, "section": nothing, "": nothing}
    for line in lines:
        if (mark := _MARK.fullmatch(line.strip())) and mark[1] == "page":
            marks["page"] = _Marks(mark[2] or "", bool(mark[3]))
    level = n = 0
    while n < len(lines):
        if mark := _MARK.fullmatch(lines[n].strip()):
            marks[mark[1] or ""] = _Marks(mark[2] or "", bool(mark[3]))
        elif heading := re.match(r"(#+) ", lines[n]):
            deep = len(heading[1])
            if marks["section"] == nothing or deep <= level:
                level, marks["section"] = deep, nothing
        end, text = _block_at(lines, n)
        if text is not None:
            why_not = next((one.why_not for one in marks.values() if one.why_not), "")
            on_cluster = not why_not and any(one.on_cluster for one in marks.values())
            yield Block(n + 1, text, why_not, on_cluster)
        marks[""] = nothing if end > n + 1 or text is not None else marks[""]
        n = end


def script_of(found: list[Block], instead: Mapping[str, str], more: str = "") -> str:
    """Return a script of bash that runs blocks in turn, and says on standard error where it is.

    instead: what stands for words of the page, as a port that is free for a port. more: what is run first.
    """
    parts = [PRELUDE, more]
    words = (
        re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, instead))})(?!\w)") if instead else None
    )
    for block in found:
        text = words.sub(lambda word: instead[word[0]], block.text) if words else block.text
        parts.append(f"echo '--- line {block.line}' >&2\n{text}\n")
    return "\n".join(parts)


def _block_at(lines: list[str], n: int) -> tuple[int, str | None]:
    """Return where what begins at a line ends, and its text if it is commands."""
    if fence := re.match(r"( *)(```+|~~~+)(\w*)", lines[n]):
        end = n + 1
        while end < len(lines) and lines[end].strip() != fence[2]:
            end += 1
        text = textwrap.dedent("\n".join(lines[n + 1 : end]))
        if fence[3] == "python" and re.search("^(import|from) ", text, re.MULTILINE):
            text = f"python - <<'END'\n{text}\nEND"
        elif fence[3] not in _COMMANDS:
            return end + 1, None
        return end + 1, text
    if not lines[n].startswith("    ") or (n and lines[n - 1].strip()):
        return n + 1, None
    end = n
    while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
        end += 1
    return end, textwrap.dedent("\n".join(lines[n:end])).strip()
