"""Questions with known answers, read from the JSONL that lm-eval writes, or a plainer one.

Each line is one of:

- a sample as `lm_eval --log_samples` writes it (`samples_*.jsonl`): its `arguments` are the texts that the
  model is asked, so any task of lm-eval can be asked again without lm-eval;
- `{"query": ..., "choices": [...], "gold": 0}`: the choice that is likeliest after the query and a blank;
- `{"query": ..., "target": ..., "until": ["\\n"], "max_gen_toks": 64}`: the answer must be the target.

Refuses to know models. Source: lm-eval 0.4.12, `evaluator.py`, `api/task.py`,
`loggers/evaluation_tracker.py`.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dure.errors import DureError, ResourceError, UsageError

__all__ = ["ChoiceQuestion", "OpenQuestion", "TaskFile", "read_tasks"]

_DEFAULT_UNTIL = ("\n\n",)
_DEFAULT_MOST = 256  # tokens of an answer
_NO_FILTERS = ("none", "remove_whitespace")


@dataclass(frozen=True)
class ChoiceQuestion:
    """A context and a text after it, for each choice. gold: which are right.

    With one choice the question is whether the model would write it.
    """

    pairs: tuple[tuple[str, str], ...]
    gold: tuple[int, ...]


@dataclass(frozen=True)
class OpenQuestion:
    """A prompt that the model continues up to one of the texts `until`. targets: each is right."""

    prompt: str
    targets: tuple[str, ...]
    until: tuple[str, ...] = _DEFAULT_UNTIL
    most: int = _DEFAULT_MOST


@dataclass(frozen=True)
class TaskFile:
    """The questions of one file."""

    name: str
    questions: tuple[ChoiceQuestion | OpenQuestion, ...]


def read_tasks(path: Path) -> TaskFile:
    """Read a file of questions. Raises ResourceError, or UsageError naming the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ResourceError(f"--tasks {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UsageError(f"--tasks {path} is no text", "name a file of JSON lines") from None
    questions = [
        _question_of(line, f"{path.name}, line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not questions:
        raise UsageError(f"--tasks {path} has no questions", "each line is one, in JSON")
    return TaskFile(path.name, tuple(questions))


_CURE = (
    "give samples of `lm_eval --log_samples`, or lines with query, choices and gold, or with query and "
    "target"
)


def _question_of(line: str, place: str) -> ChoiceQuestion | OpenQuestion:
    try:
        value = json.loads(line)
        if not isinstance(value, dict):
            raise TypeError
        return _sample(value, place) if "arguments" in value else _plain(value)
    except DureError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise UsageError(f"{place} is no question that dure knows", _CURE) from error


def _plain(value: Mapping[str, Any]) -> ChoiceQuestion | OpenQuestion:
    query = _text(value["query"])
    if "choices" not in value:
        until = value.get("until", ["\n"])
        return OpenQuestion(
            query,
            _texts(value["target"]),
            _texts(until),
            _count(value.get("max_gen_toks", 64)),
        )
    pairs = tuple((query, f" {_text(choice)}") for choice in value["choices"])
    return ChoiceQuestion(pairs, _gold(value["gold"], pairs))


def _sample(value: Mapping[str, Any], place: str) -> ChoiceQuestion | OpenQuestion:
    arguments = value["arguments"]
    if isinstance(arguments, Mapping):  # since lm-eval 0.4.5; a list of lists before
        arguments = [list(one.values()) for one in arguments.values()]
    target = _literal(value["target"])
    if len(arguments[0]) == 1:
        raise UsageError(
            f"{place} asks for the likelihood of a whole text", "give that text with --data"
        )
    if isinstance(arguments[0][1], Mapping):
        return _open(arguments[0][0], arguments[0][1], target, value.get("filter", "none"), place)
    pairs = tuple((_text(context), _text(end)) for context, end in arguments)
    n = len(pairs)
    if "acc_mutual_info" in value.get("metrics", ()):  # the second half is asked without a context
        n //= 2
    return ChoiceQuestion(pairs[:n], (0,) if n == 1 else _gold(target, pairs[:n]))


def _open(
    prompt: Any, how: Mapping[str, Any], target: Any, filter_: str, place: str
) -> OpenQuestion:
    if filter_ not in _NO_FILTERS:
        raise UsageError(
            f"{place}: answers are filtered by {filter_!r}, and the file does not say how",
            "leave out these lines: only exact matches can be judged",
        )
    return OpenQuestion(
        _text(prompt),
        _texts(target) if isinstance(target, list) else (str(target),),
        _texts(how.get("until", _DEFAULT_UNTIL)),
        _count(how.get("max_gen_toks", _DEFAULT_MOST)),
    )


def _gold(target: Any, pairs: tuple[tuple[str, str], ...]) -> tuple[int, ...]:
    """Return which choices are right: numbers, or their texts."""
    ends = [end.strip() for _, end in pairs]
    wanted = target if isinstance(target, list) else [target]
    found = [one if isinstance(one, int) else ends.index(_text(one).strip()) for one in wanted]
    if not found or not all(0 <= one < len(pairs) for one in found):
        raise ValueError
    return tuple(found)


def _literal(target: Any) -> Any:
    """Return a target that lm-eval wrote as a text: a number, a list, or really a text."""
    text = str(target)
    if text.isdecimal():
        return int(text)
    if text.startswith("["):
        try:
            return list(ast.literal_eval(text))
        except (ValueError, SyntaxError):
            return text
    return text


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _texts(value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(map(str, value or ()))
    return tuple(text for text in texts if text)


def _count(value: Any) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError
    return value
