"""What `dure plan` says of machines that nobody has here: it reads the catalogue and headers, and runs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.dure_process import Dure, as_json, error_line

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
FOUR = ("plan", "qwen3:30b-a3b", "--nodes", "pi5-8gb:4")


@pytest.fixture
def dure(tmp_path: Path) -> Iterator[Dure]:
    """The program; after every test, none of its processes is left."""
    program = Dure(tmp_path / "cache")
    yield program
    assert program.left_behind() == []


def test_a_plan_says_of_each_line_how_it_is_known_and_how_to_check_it(dure: Dure) -> None:
    """Of a model that is not here, on boards that are not here either."""
    done = dure(*FOUR)
    assert (done.returncode, done.stderr) == (0, "")
    lines = {line.split("  ")[0]: line for line in done.stdout.splitlines() if line}
    assert "It fits." in lines
    assert "fitted to published speeds" in lines["generation"]
    assert "dure bench qwen3:30b-a3b --cluster" in lines["generation"]
    assert "sums between nodes" in done.stdout
    assert "dollars, of it 20 for a switch" in lines["price"]
    for name in ("reading a prompt", "the cut", "memory", "power", "a million tokens", "Q8_0"):
        assert name in lines


def test_a_plan_as_data_adds_up(dure: Dure) -> None:
    """Parts of a token's time, prices and speeds; a quantization that is too large says why."""
    facts = as_json(dure(*FOUR, "--json", "--electricity", "0.30usd"))
    generation = facts["generation"]
    parts = sum(generation[f"{part}_ms"] for part in ("compute", "sync", "rest"))
    assert generation["tokens_per_s"] == pytest.approx(1000 / parts)
    assert generation["low"] < generation["tokens_per_s"] < generation["high"]
    assert facts["price"] == 4 * 125 + 20
    per_hour = facts["watts"] / 1000 * 0.30
    tokens = 3600 * generation["tokens_per_s"]
    assert facts["dollars_per_million_tokens"] == pytest.approx(per_hour / tokens * 1e6)
    assert len(facts["parts"]) == 4
    assert len(facts["one_more"]["nodes"]) == 5
    assert facts["quantizations"]["Q4_0"]["runs"]
    assert not facts["quantizations"]["F16"]["runs"]
    assert "has 7.5 GB for it" in facts["quantizations"]["F16"]["problem"]


def test_what_does_not_fit_is_said_with_a_context_that_would(dure: Dure) -> None:
    """A long context of a model whose weights do fit."""
    done = dure("plan", "qwen3:8b", "--nodes", "pi5-8gb", "--ctx", "32768")
    assert "It does not run: its part takes" in done.stdout
    assert "It would fit with --ctx 8192." in done.stdout


def test_a_file_that_is_here_is_planned_with_its_own_types(dure: Dure) -> None:
    """And unlike machines get unlike shares."""
    facts = as_json(dure("plan", DEMO, "--nodes", "pi5-8gb,n150", "--link", "wifi6", "--json"))
    assert facts["runs"]
    slow, fast = (part["share"] for part in facts["parts"])
    assert slow < fast
    assert facts["link"] == "Wi-Fi 6"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("qwen3:8b",), "no machines to plan for"),
        (("qwen3:8b", "--nodes", "pi5-8gbb:2"), "did you mean pi5-8gb"),
        (("qwen3:8b", "--nodes", "pi5-8gb:x"), "as in pi5-8gb:4"),
        (("qwen3:8b", "--nodes", "rtx4090:2"), "works on one machine alone"),
        (("qwen3:8b", "--nodes", "pi5-8gb", "--link", "modem"), "give one of 1gbe"),
        (("qwen3:8b", "--nodes", "pi5-8gb", "--quantization", "Q9"), "2.7bpw"),
        (("qwen3:8c", "--nodes", "pi5-8gb"), "qwen3:8b"),
        (("qwen3:8b", "--nodes", "pi5-8gb", "--electricity", "cheap"), "a price as in 300usd"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_with_a_cure(
    dure: Dure, arguments: tuple[str, ...], error: str
) -> None:
    """In one line, with exit code 2."""
    done = dure("plan", *arguments)
    assert done.returncode == 2
    assert error in error_line(done.stderr)
