"""Run llama.cpp's server tests against `dure serve`, and compare with what is expected.

    python -m tests.compat.run /path/to/llama.cpp
    python -m tests.compat.run /path/to/llama.cpp test_tokenize.py --llama-server PROGRAM

The exit status is 0 where every case ended as `expected.toml` says, 1 where one did not, and 2
where the suite cannot run. With --llama-server that program answers, and nothing is compared.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.compat.expected import Expectation, read_expected, surprises
from tests.compat.suite import SCRIPTS, TEST_FILES, Outcome, SuiteError, run_suite

__all__ = ["main"]

DEMO_MODEL = Path(__file__).resolve().parents[2] / "models" / "dure-demo.gguf"
ALL = (*TEST_FILES, *SCRIPTS)
LONGEST_MESSAGE = 160


def main() -> int:
    """Run what the command line names; return the exit status."""
    arguments = _command_line().parse_args()
    names = arguments.names or list(ALL)
    expected = {} if arguments.llama_server else read_expected()
    outcomes: dict[str, Outcome] = {}
    try:
        for case, outcome in run_suite(
            arguments.source.resolve(), arguments.model, names, llama_server=arguments.llama_server
        ):
            outcomes[case] = outcome
            _say(_row(case, outcome, expected.get(case)))
    except SuiteError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if arguments.llama_server:
        return 0
    wrong = surprises(expected, outcomes, names)
    _say("\n".join([f"{len(outcomes)} cases, {len(wrong)} not as expected", *wrong]))
    return 1 if wrong else 0


def _command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="a tree of llama.cpp's sources")
    parser.add_argument("names", nargs="*", choices=[*ALL, []], metavar="FILE",
                        help="which test files and scripts; all, where none is named")  # fmt: skip
    parser.add_argument("--model", type=Path, default=DEMO_MODEL, help="(%(default)s)")
    parser.add_argument("--llama-server", type=Path, metavar="PROGRAM",
                        help="ask this llama-server instead, to see what the model alone does")  # fmt: skip
    return parser


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _row(case: str, outcome: Outcome, expectation: Expectation | None) -> str:
    words = " ".join(outcome.message.split())[:LONGEST_MESSAGE]
    why = expectation.why if expectation and expectation.why else words
    return f"{case} | {outcome.result} | {why}"


if __name__ == "__main__":
    sys.exit(main())
