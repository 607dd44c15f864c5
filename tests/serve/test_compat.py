"""llama.cpp's own server tests end as `tests/compat/expected.toml` says, and its page is current.

The suite itself is not here: DURE_LLAMA_SOURCE names a tree of llama.cpp's sources, such as
`vendor/llama.cpp` in the source package of llama-cpp-python.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from generate import field_tables, renewed

from tests.compat.expected import Expectation, Verdict, page, read_expected, surprises
from tests.compat.shim import UntranslatableError, api_keys, to_dure, to_llama_server
from tests.compat.suite import SCRIPTS, TEST_FILES, Outcome

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "compatibility.md"
MODEL = Path("model.gguf")
SOURCE = os.environ.get("DURE_LLAMA_SOURCE")


@pytest.mark.skipif(not SOURCE, reason="DURE_LLAMA_SOURCE names no tree of llama.cpp's sources")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", [*TEST_FILES, *SCRIPTS])
def test_llama_cpp_cases_end_as_expected(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.compat.run", str(SOURCE), name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_is_made_from_the_expectations() -> None:
    made = renewed(page(read_expected()), "fields", field_tables())
    assert PAGE.read_text() == made, f"run: python -m tests.compat.expected > {PAGE}; make docs"


def test_every_file_and_script_has_expectations() -> None:
    assert {case.partition("::")[0] for case in read_expected()} == {*TEST_FILES, *SCRIPTS}


def test_a_case_that_fails_otherwise_than_expected_is_a_surprise() -> None:
    expected = {"f::a": Expectation(Verdict.MODEL, "its model's words", "^assert 22 == 69$")}
    alike = {"f::a": Outcome("failed", "assert 22 == 69")}
    other = {"f::a": Outcome("failed", "500 Internal Server Error")}
    assert surprises(expected, alike, ["f"]) == []
    assert len(surprises(expected, other, ["f"])) == 1


def test_a_case_that_passes_though_it_should_differ_is_a_surprise() -> None:
    expected = {"f::a": Expectation(Verdict.DELIBERATE, "a reason", "assert")}
    assert len(surprises(expected, {"f::a": Outcome("passed")}, ["f"])) == 1


def test_a_case_that_did_not_run_and_one_that_is_not_listed_are_surprises() -> None:
    expected = {"f::a": Expectation(Verdict.PASSES), "g::b": Expectation(Verdict.PASSES)}
    assert surprises(expected, {"f::new": Outcome("passed")}, ["f"]) == [
        "f::new: not in expected.toml; it passed",
        "f::a: did not run",
    ]


def test_the_launcher_gives_every_slot_its_part_of_llama_servers_context() -> None:
    argv = [
        "--hf-repo",
        "a/b",
        "--ctx-size",
        "512",
        "--parallel",
        "2",
        "--no-jinja",
        "--seed",
        "42",
    ]
    assert to_dure(argv, MODEL)[3:] == [
        "serve", "model.gguf", "--ctx", "256", "--parallel", "2", "--seed", "42", "--cors-origin", "*",
    ]  # fmt: skip


def test_the_launcher_names_every_flag_it_cannot_translate() -> None:
    with pytest.raises(UntranslatableError, match="--reranking, --mmproj"):
        to_dure(["--port", "1", "--reranking", "--mmproj", "file"], MODEL)


def test_the_launcher_puts_a_key_into_the_environment_only() -> None:
    argv = ["--api-key", "secret", "--port", "1"]
    assert "secret" not in to_dure(argv, MODEL)
    assert api_keys(argv) == {"DURE_API_KEYS": "secret"}


def test_the_launcher_gives_llama_server_all_but_the_model() -> None:
    argv = ["--hf-repo", "a/b", "--offline", "--top-k", "3"]
    assert to_llama_server(argv, MODEL, "/bin/llama-server") == [
        "/bin/llama-server", "--model", "model.gguf", "--top-k", "3",
    ]  # fmt: skip
