"""Which of llama.cpp's cases pass and which differ and why: `expected.toml`, checked and shown.

Knows the file's form, how a run compares with it, and the page that is made of it.
Refuses to know how cases are run.

    python -m tests.compat.expected > docs/compatibility.md && make docs
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.compat.suite import SCRIPTS, TEST_FILES, Outcome

__all__ = ["EXPECTED_FILE", "Expectation", "Verdict", "page", "read_expected", "surprises"]

EXPECTED_FILE = Path(__file__).with_name("expected.toml")


class Verdict(Enum):
    """What a case is expected to do; all but PASSES need a reason."""

    PASSES = "passes"
    MODEL = "model"
    UNSUPPORTED = "unsupported"
    DELIBERATE = "deliberate"
    SKIPPED = "skipped"

    @property
    def words(self) -> str:
        """As the page says it."""
        return {
            Verdict.PASSES: "passes",
            Verdict.MODEL: "differs: the test's model",
            Verdict.UNSUPPORTED: "differs: not supported",
            Verdict.DELIBERATE: "differs: on purpose",
            Verdict.SKIPPED: "skipped by llama.cpp",
        }[self]

    @property
    def results(self) -> tuple[str, ...]:
        """How such a case may end: chance decides what the demo model says."""
        match self:
            case Verdict.PASSES:
                return ("passed",)
            case Verdict.SKIPPED:
                return ("skipped",)
            case Verdict.MODEL:
                return ("failed", "passed")
        return ("failed",)


@dataclass(frozen=True, slots=True)
class Expectation:
    """What one case does, why where it does not pass, and with which message it fails (a pattern)."""

    verdict: Verdict
    why: str = ""
    fails_with: str = ""

    def met_by(self, outcome: Outcome) -> bool:
        """Whether the case ended so: a failure of another kind than the expected one is not."""
        if outcome.result not in self.verdict.results:
            return False
        return outcome.result != "failed" or bool(re.search(self.fails_with, outcome.message))


def read_expected(path: Path = EXPECTED_FILE) -> dict[str, Expectation]:
    """Every case, as `file::name`, in the file's order. Raises ValueError on a wrong entry."""
    found: dict[str, Expectation] = {}
    for group in tomllib.loads(path.read_text())["cases"]:
        expectation = Expectation(
            Verdict(group["outcome"]), group.get("why", ""), group.get("fails_with", "")
        )
        if bool(expectation.why) == (expectation.verdict is Verdict.PASSES):
            raise ValueError(f"{group['file']}: what differs needs a reason, what passes has none")
        if bool(expectation.fails_with) != ("failed" in expectation.verdict.results):
            raise ValueError(f"{group['file']}: what fails needs the message it fails with")
        for name in group["names"]:
            case = f"{group['file']}::{name}"
            if case in found:
                raise ValueError(f"{case} is named twice")
            found[case] = expectation
    return found


def surprises(
    expected: Mapping[str, Expectation], outcomes: Mapping[str, Outcome], files: Sequence[str]
) -> list[str]:
    """What a run of `files` did otherwise than expected; a line each."""
    lines = []
    for case, outcome in outcomes.items():
        if case not in expected:
            lines.append(f"{case}: not in {EXPECTED_FILE.name}; it {outcome.result}")
        elif not expected[case].met_by(outcome):
            wanted = expected[case].verdict.words
            lines.append(f"{case}: {outcome.result}, expected: {wanted}. {outcome.message}")
    missing = [c for c in expected if c.partition("::")[0] in files and c not in outcomes]
    return lines + [f"{case}: did not run" for case in missing]


def page(expected: Mapping[str, Expectation]) -> str:
    """docs/compatibility.md: a summary, every field, then every case. `make docs` fills in the fields."""
    parts = [_HEAD, _summary(expected), FIELDS]
    for file in (*TEST_FILES, *SCRIPTS):
        rows = [
            f"| {_code(case.partition('::')[2])} | {e.verdict.words} | {e.why} |"
            for case, e in expected.items()
            if case.partition("::")[0] == file
        ]
        if rows:
            parts.append("\n".join([f"## {file}\n", "| case | | why |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


FIELDS = "\n".join(  # one sentence a line
    (
        "## Fields of requests\n",
        "What could change the answer and is not supported is refused with 400, by name.",
        "What cannot change it is let through: the header `x-dure-ignored` of the answer names it, the "
        "access log too, and `dure_ignored_fields_total` of `/metrics` counts it.",
        "So is a name that nobody here knows, unless it looks like a misspelled one.",
        "`dure serve --strict` refuses unknown names, and what asks for something that is not done.",
        "Tools that this server cannot run are left out of the prompt, and named as `tools.0`.\n",
        "<!-- generated: fields -->\n",
        "<!-- end -->",
    )
)


_HEAD = "\n".join(  # one sentence a line
    (
        "# Compatibility with llama.cpp's server\n",
        "llama.cpp tests its own server with pytest files and a few scripts.",
        "Programs written for `llama-server` rely on what these fix, so they run against `dure serve` too: "
        "unchanged, over HTTP, started through a launcher that translates llama-server's flags.",
        "They come with llama.cpp's sources in llama-cpp-python's source package, version 0.3.36.\n",
        "Their models cannot be had without a download: all cases run with this repository's demo model.",
        "Many cases expect text or token counts of their own model; these are told apart from what differs "
        "because of dure:\n",
        "- *the test's model*: the case expects its own model's text, tokens or abilities; "
        "`llama-server` fails it too, with the demo model.",
        "- *not supported*: dure does not have this, and says so where it is asked for.",
        "- *on purpose*: dure has it, and answers otherwise.\n",
        "This page is made from `tests/compat/expected.toml`; "
        "a run fails when a case ends otherwise than listed:\n",
        "<!-- not run: it needs the tests of llama.cpp -->\n",
        "    python -m tests.compat.run /path/to/llama.cpp",
    )
)


def _summary(expected: Mapping[str, Expectation]) -> str:
    files = [*TEST_FILES, *SCRIPTS]
    lines = [
        f"| | cases | {' | '.join(v.words for v in Verdict)} |",
        f"|---|{'---|' * (1 + len(Verdict))}",
    ]
    for file in files:
        counts = Counter(
            e.verdict for case, e in expected.items() if case.partition("::")[0] == file
        )
        lines.append(_row(file, counts))
    lines.append(_row("all", Counter(e.verdict for e in expected.values())))
    return "\n".join(lines)


def _row(name: str, counts: Counter[Verdict]) -> str:
    numbers = [counts.total(), *(counts[verdict] for verdict in Verdict)]
    return f"| {name} | {' | '.join(map(str, numbers))} |"


def _code(text: str) -> str:
    return f"`` {text} ``".replace("|", "\\|") if "`" in text else f"`{text}`".replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page(read_expected()))
