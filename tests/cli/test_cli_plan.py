"""What `dure plan` says of machines that are not here: the catalogue and headers are read, nothing runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dure.plan.machines import device_named
from tests.support.dure_process import Dure, as_json, error_line

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
PRICE = device_named("pi5-8gb").price
BOARD = PRICE.value if PRICE else 0.0  # a later catalogue has another price
FOUR = ("plan", "qwen3:30b-a3b", "--nodes", "pi5-8gb:4")


@pytest.fixture
def dure(tmp_path: Path) -> Iterator[Dure]:
    """The program; after every test, none of its processes is left."""
    program = Dure(tmp_path / "cache")
    yield program
    assert program.left_behind() == []


def topics(text: str) -> dict[str, str]:
    """The paragraphs of a plan by their first lines."""
    return {one.split("\n")[0]: one for one in text.split("\n\n")}


def test_a_plan_says_of_each_topic_how_it_is_known_and_how_to_check_it(dure: Dure) -> None:
    """Of a model that is not here, on boards that are not here either."""
    done = dure(*FOUR)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1] == "It fits."
    told = topics(done.stdout)
    assert re.search("known from +machine fitted to published speeds", told["Speed"])
    assert re.search("check it with +dure bench qwen3:30b-a3b --cluster", told["Speed"])
    assert re.search("check it with +dure show qwen3:30b-a3b --cluster", told["Memory"])
    assert re.search("price +.* dollars, of it 20 for a switch .catalogue, 2026", told["Cost"])
    names = ("generation", "reading a prompt", "the cut", "memory", "power", "a million tokens")
    for name in (*names, "Q8_0"):
        assert f"\n  {name}  " in done.stdout
    assert "ms summing" in told["Speed"]


@pytest.mark.parametrize(
    "arguments",
    [
        FOUR,
        ("plan", "llama3.3:70b", "--nodes", "pi5-8gb:2,n150"),
        ("plan", "qwen3:8b", "--nodes", "h100-pod"),
        ("plan", "--have", "pi5-8gb:2", "--budget", "200usd"),
        ("plan", "--want", "qwen3:30b-a3b at 10 tok/s", "--have", "pi5-8gb:2"),
    ],
)
def test_a_plan_fits_a_terminal(dure: Dure, arguments: tuple[str, ...]) -> None:
    """No line is wider, and few are continued: a row of a table has two lines at most."""
    wide = dure(*arguments, COLUMNS="250").stdout.splitlines()
    for width in (80, 120):
        narrow = dure(*arguments, COLUMNS=str(width)).stdout.splitlines()
        assert max(map(len, narrow)) <= width
        assert len(narrow) <= 1.4 * len(wide)


def test_commands_that_check_a_plan_for_other_types_can_be_given(dure: Dure) -> None:
    """A file in those types is still to be made, so it has no name yet."""
    done = dure(*FOUR, "--quantization", "2.7bpw")
    assert "qwen3:30b-a3b in 2.7bpw" in done.stdout.splitlines()[0]
    assert "dure bench FILE --cluster" in done.stdout
    assert "dure plan qwen3:30b-a3b --quantization 2.7bpw --nodes" in done.stdout


def test_a_plan_as_data_adds_up(dure: Dure) -> None:
    """Parts of a token's time, prices and speeds; a quantization that is too large says why."""
    facts = as_json(dure(*FOUR, "--json", "--electricity", "0.30usd"))
    generation = facts["generation"]
    parts = sum(generation[f"{part}_ms"] for part in ("compute", "sync", "rest"))
    assert generation["tokens_per_s"] == pytest.approx(1000 / parts)
    assert generation["low"] < generation["tokens_per_s"] < generation["high"]
    assert facts["price"] == 4 * BOARD + 20
    per_hour = facts["watts"] / 1000 * 0.30
    tokens = 3600 * generation["tokens_per_s"]
    assert facts["dollars_per_million_tokens"] == pytest.approx(per_hour / tokens * 1e6)
    assert len(facts["parts"]) == 4
    assert len(facts["one_more"]["nodes"]) == 5
    assert facts["quantizations"]["Q4_0"]["runs"]
    assert not facts["quantizations"]["F16"]["runs"]
    assert "all machines together have 30.0 GB" in facts["quantizations"]["F16"]["problem"]


def test_what_does_not_fit_is_said_with_a_context_that_would(dure: Dure) -> None:
    """A long context of a model whose weights do fit; no speed is shown of what does not run."""
    done = dure("plan", "qwen3:8b", "--nodes", "pi5-8gb", "--ctx", "32768")
    assert "It does not run: its part takes" in done.stdout
    assert "It would fit with --ctx 8192." in done.stdout
    assert "tokens/s (" not in done.stdout


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
        (("qwen3:8b", "--nodes", "pi5-8gb", "--ctx", "0"), "give a number of tokens above 0"),
        (("qwen3:8b", "--nodes", "pi5-8gb", "--parallel", "129"), "give a number from 1 to 128"),
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


def test_what_runs_on_what_one_has_is_answered_by_one_command(dure: Dure) -> None:
    """Two boards and 200 dollars: models, the most able first, and a shopping list."""
    done = dure("plan", "--have", "pi5-8gb:2", "--budget", "200usd")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[3].startswith("qwen3:30b-a3b")
    assert f"1 x Raspberry Pi 5, 8 GB, {BOARD:.0f} dollars" in done.stdout


def test_a_wish_is_answered_with_options_and_a_picture(dure: Dure, tmp_path: Path) -> None:
    """Ranked by the first year's cost, with the months after which buying pays."""
    picture = tmp_path / "options.svg"
    wish = ("plan", "--want", "qwen3:4b at 8 tok/s", "--budget", "700usd", "--plot", picture)
    done = dure(*wish)
    assert (done.returncode, done.stderr) == (0, "")
    assert "the cheapest rented machine" in done.stdout
    assert "Raspberry Pi" in picture.read_text()
    facts = as_json(dure(*wish, "--have", "pi5-8gb", "--json"))
    meeting = [one for one in facts["options"] if one["meets"]]
    assert all(one["to_pay"] <= 700 for one in facts["options"])
    assert all(one["generation"]["tokens_per_s"] >= 8 for one in meeting)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--want", "qwen3:8b for free"), "qwen3:8b at 10 tok/s"),
        (("--want", "qwen3:8b at 10 tok/s", "--budget", "much"), "a price as in 300usd"),
        (("--want", "qwen3:8b at 10 tok/s", "--hours", "0"), "up to 744"),
        (("--have", "pi5-8gb:2", "--plot", "x.svg"), "--plot without a model"),
        (("--nodes", "pi5-8gb:2"), "no model to plan for"),
        (("qwen3:8b", "--nodes", "pi5-8gb:2", "--budget", "5usd"), "leave one of them out"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused_with_a_cure(
    dure: Dure, arguments: tuple[str, ...], error: str
) -> None:
    """In one line, with exit code 2."""
    done = dure("plan", *arguments)
    assert done.returncode == 2
    assert error in error_line(done.stderr)
