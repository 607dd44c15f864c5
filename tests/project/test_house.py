"""The sizes and habits that the house keeps: they are counted, so that nobody has to."""

from __future__ import annotations

import ast
import re
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from dure import errors

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
NATIVE = sorted((ROOT / "native").glob("*.[ch]"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
CURES = (  # what most cures begin with
    "add|ask|check|choose|download|get|give|install|leave|look|make|name|pull|remove|run|see|set|start|"
    "stop|try|use|wait|write"
)
MOST_MODULE_LINES, MOST_CLASS_LINES, MOST_FUNCTION_LINES, MEDIAN_FUNCTION_LINES = 450, 250, 60, 8
OUR_ERRORS = {name for name in errors.__all__ if name.endswith("Error")}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def nodes(paths: list[Path]) -> Iterator[tuple[Path, ast.AST]]:
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            yield path, node


def length(node: ast.AST) -> int:
    assert isinstance(node, ast.stmt)
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def named(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}: {getattr(node, 'name', '')}, {length(node)} lines"


def is_command(node: Function) -> bool:
    """Whether a function's parameters are a command's options, each with its help."""
    annotations = [argument.annotation for argument in node.args.args + node.args.kwonlyargs]
    return any("typer." in ast.unparse(one) for one in annotations if one)


def test_no_module_is_longer_than_a_reader_holds() -> None:
    long = [p for p in SOURCES + NATIVE if len(p.read_text().splitlines()) > MOST_MODULE_LINES]
    assert [str(path.relative_to(ROOT)) for path in long] == []


def test_no_class_holds_many_policies() -> None:
    classes = [(p, n) for p, n in nodes(SOURCES) if isinstance(n, ast.ClassDef)]
    assert [named(p, n) for p, n in classes if length(n) > MOST_CLASS_LINES] == []


def test_functions_are_small() -> None:
    """None is over 60 lines, but for a command's options; half of them have 8 or fewer."""
    functions = [(p, n) for p, n in nodes(SOURCES) if isinstance(n, Function)]
    long = [(p, n) for p, n in functions if length(n) > MOST_FUNCTION_LINES and not is_command(n)]
    assert [named(p, n) for p, n in long] == []
    assert statistics.median(length(n) for _, n in functions) <= MEDIAN_FUNCTION_LINES


def test_no_two_classes_have_one_name() -> None:
    """A name means one thing in the whole program; private ones are their module's own."""
    places = defaultdict(list)
    for path, node in nodes(SOURCES):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            places[node.name].append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def said(node: ast.AST) -> str:
    """A text in a program; what is not known before it runs is a dot."""
    if isinstance(node, ast.JoinedStr):
        return "".join(said(part) for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "."


def test_an_errors_cure_is_beside_its_problem() -> None:
    """No error of ours says in its problem what to do: programs read that from its cure."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {said(argument)}"
        for path, node in nodes(SOURCES)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in OUR_ERRORS
        for argument in node.args
        if re.search(rf": ({CURES})\b", said(argument))
    ]
    assert found == []


def test_tests_patch_nothing() -> None:
    """What a test needs otherwise is a parameter; the environment and the folder may be set."""
    patching = re.compile(r"monkeypatch\.(setattr|delattr|setitem)|unittest\.mock|mock\.patch")
    found = [p for p in TESTS if p != Path(__file__) and patching.search(p.read_text())]
    assert [str(path.relative_to(ROOT)) for path in found] == []
