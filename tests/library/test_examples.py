"""The examples run as they are, and show what they promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.examples import EXAMPLES, run_example

SHOWN = {
    "stream_chat.py": ["> Who is the story about?", "returned {'day':"],
    "score_texts.py": [
        "The likeliest ending: ' barley farmer called Nari.'",
        "it expected ' called'",
    ],
    "many_prompts.py": ["Once upon a time there was a spoon", "merry"],
}


def test_every_example_runs_here() -> None:
    """None is forgotten; `demo.py` has a test of its own. Each is short."""
    paths = {path.name: path for path in EXAMPLES.glob("*.py")}
    assert paths.keys() == SHOWN.keys() | {"demo.py"}
    assert max(len(path.read_text().splitlines()) for path in paths.values()) < 60


@pytest.mark.parametrize("name", SHOWN)
def test_an_example_shows_what_it_promises(tmp_path: Path, name: str) -> None:
    done = run_example(name, tmp_path)
    assert done.returncode == 0, done.stderr
    of_machine = ("cores", "other programs are using")
    lines = done.stderr.splitlines()
    assert all(any(words in line for words in of_machine) for line in lines), lines
    for text in SHOWN[name]:
        assert text in done.stdout
