"""Reads from the source which errors dure reports, and what cures them, for docs/troubleshooting.md.

Knows calls of our errors' classes, of functions that raise one with a problem and a cure given to
them, and what guards refuse with. What is known only when the program runs is a word in italics, or an
ellipsis.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "dure"

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Commands and their options": ("cli", "deploy/options.py"),
    "Model files, names and pulls": ("model",),
    "Importing, quantizing and judging": ("convert", "evaluate", "kept_work.py"),
    "Tuning": ("tune",),
    "Starting and running a model": (
        "deploy", "plan", "engine", "generate", "worker", "hardware", "isolation",
    ),
    "A cluster and its machines": ("cluster", "doctor"),
    "Requests to a server": ("chat", "serve"),
    "Servers: keys, TLS, addresses, services": ("http", "systemd.py"),
    "Routers": ("route",),
    "Pods": ("pods",),
    "Python programs": ("library",),
}  # fmt: skip
"""Where a user meets the errors of which packages and modules; the longest name counts. Modules beside the
packages that are not named are of the first."""

_ESCAPED = re.compile(r"([\\|*_<>\[\]])")
_VALUE = re.compile(r"\*([^*\\]+)\*")
_BLANK = "\0"
_NO_CURE = 99  # an argument that no call has
_PLAIN_CALLS = {"one_line", "repr", "str", "shown", "bytes_text", "quoted", "short"}


@dataclass(frozen=True, order=True)
class ErrorText:
    """One error as a user reads it, in Markdown. path: its module, below src/dure."""

    problem: str
    cure: str
    path: str


@dataclass(frozen=True)
class _Raiser:
    """A class or function that is given a problem and a cure, by the places of its arguments.

    cure None: it is the part of the problem after its colon.
    """

    problem: int
    cure: int | None
    before: str = ""  # what it puts before the problem
    default: str = ""  # the cure, if none is given


@dataclass(frozen=True)
class _Module:
    path: str
    texts: Mapping[str, ast.expr]  # constants by name
    classes: list[ast.ClassDef]
    functions: list[ast.FunctionDef]
    calls: list[ast.Call]


def troubleshooting() -> str:
    """Return every error with its cure, by where a user meets it."""
    found = error_texts()
    return "\n\n".join(
        "\n".join(
            [f"### {title}", "", "| it says | what to do |", "|---|---|", *_rows(found, title)]
        )
        for title in SECTIONS
    )


def error_texts(source: Path = SOURCE) -> list[ErrorText]:
    """Return the errors that the modules below a folder raise, in the order of their texts."""
    found = {
        ErrorText(_finished(one.problem), _finished(_or_read(one.cure)), one.path)
        for one in _texts(source, _Words)
    }
    return sorted(found, key=lambda one: (_sorted_by(one.problem), one))


def error_templates(source: Path = SOURCE, more: Mapping[str, int] | None = None) -> set[ErrorText]:
    """Return the same as the program has them, with {1}, {2} and so on for what is known only when it runs.

    more: other functions that are given a sentence, by the places of their arguments.
    """
    others = {name: _Raiser(place, _NO_CURE) for name, place in (more or {}).items()}
    return {
        ErrorText(_numbered(one.problem), _numbered(one.cure), one.path)
        for one in _texts(source, _Templates, others)
    }


def _texts(
    source: Path, words: type[_Words], more: Mapping[str, _Raiser] | None = None
) -> set[ErrorText]:
    modules = [_module(path, source) for path in sorted(source.rglob("*.py"))]
    classes = {**_classes(modules), **(more or {})}
    found = set()
    for package in {_package(one) for one in modules}:
        inside = [one for one in modules if _package(one) == package]
        raisers = dict(classes)
        for one in inside:
            raisers |= dict(_functions(one, classes, words))
        found |= {text for one in inside for text in _raised(one, raisers, words)}
    return found


def section_of(path: str) -> str:
    """Return the title under which a module's errors stand. Raises KeyError for a new package."""
    titles = {name: title for title, names in SECTIONS.items() for name in names}
    places = [name for name in titles if path == name or path.startswith(f"{name}/")]
    if not places and "/" not in path:
        return next(iter(SECTIONS))
    if not places:
        raise KeyError(f"{path} has no section of docs/troubleshooting.md: see SECTIONS")
    return titles[max(places, key=len)]


def _rows(found: Iterable[ErrorText], title: str) -> list[str]:
    rows = [f"| {one.problem} | {one.cure} |" for one in found if section_of(one.path) == title]
    return list(dict.fromkeys(rows))


def _module(path: Path, source: Path) -> _Module:
    tree = ast.parse(path.read_text())
    texts = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value, ast.Constant | ast.JoinedStr)
    }
    nodes = list(ast.walk(tree))
    return _Module(
        str(path.relative_to(source)),
        texts,
        [node for node in nodes if isinstance(node, ast.ClassDef)],
        [node for node in nodes if isinstance(node, ast.FunctionDef)],
        [node for node in nodes if isinstance(node, ast.Call)],
    )


def _package(module: _Module) -> str:
    return module.path.rpartition("/")[0]


def _classes(modules: Iterable[_Module]) -> dict[str, _Raiser]:
    """The errors' classes: DureError, and all that is derived from it."""
    raisers = {"DureError": _Raiser(0, 1), "Refusal": _Raiser(1, None)}
    nodes = [node for one in modules for node in one.classes]
    while new := [n for n in nodes if n.name not in raisers and _base(n) in raisers]:
        for node in new:
            made = [f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"]
            raisers[node.name] = (made and _given(made[0])) or raisers[_base(node)]
    return raisers


def _base(node: ast.ClassDef) -> str:
    return node.bases[0].id if node.bases and isinstance(node.bases[0], ast.Name) else ""


def _functions(
    module: _Module, classes: Mapping[str, _Raiser], words: type[_Words]
) -> Iterator[tuple[str, _Raiser]]:
    """The functions of a module that make an error of a problem which they are given."""
    for node in module.functions:
        if given := _given(node):
            for call in ast.walk(node):
                if isinstance(call, ast.Call) and (raiser := classes.get(_called(call))):
                    whole = words(module).told(call.args[raiser.problem])
                    before = whole.partition(words.blank("problem"))[0]
                    yield node.name, _Raiser(given.problem, given.cure, before, given.default)


def _given(node: ast.FunctionDef) -> _Raiser | None:
    """Which arguments of a function are a problem and a cure, if it has such."""
    names = [one.arg for one in node.args.args if one.arg != "self"]
    if "problem" not in names or "cure" not in names:
        return None
    defaults = dict(zip(reversed(names), reversed(node.args.defaults), strict=False))
    default = defaults.get("cure")
    text = default.value if isinstance(default, ast.Constant) else ""
    return _Raiser(names.index("problem"), names.index("cure"), default=str(text))


def _called(call: ast.Call) -> str:
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _raised(
    module: _Module, raisers: Mapping[str, _Raiser], kind: type[_Words]
) -> Iterator[ErrorText]:
    words = kind(module)
    for call in module.calls:
        raiser = raisers.get(_called(call))
        if raiser is None:
            continue
        problem = _argument(call, raiser.problem, "problem")
        if problem is None or not words.says_something(problem):
            continue
        text, cure = raiser.before + words.told(problem), words.plain(raiser.default)
        if raiser.cure is None:
            text, _, cure = text.partition(": ")
        elif given := _argument(call, raiser.cure, "cure"):
            cure = words.told(given)
        yield ErrorText(text, cure, module.path)


def _or_read(cure: str) -> str:
    return "the message says it" if cure == "…" or _VALUE.fullmatch(cure) else cure


def _finished(text: str) -> str:
    """Write code between backticks as it is typed, its values in capitals."""
    parts = text.split("`")
    for i in range(1, len(parts), 2):
        parts[i] = re.sub(r"\\(.)", r"\1", _VALUE.sub(lambda value: value[1].upper(), parts[i]))
    return "`".join(parts)


def _argument(call: ast.Call, place: int, name: str) -> ast.expr | None:
    if len(call.args) > place:
        return call.args[place]
    return next((one.value for one in call.keywords if one.arg == name), None)


class _Words:
    """Writes the expressions of one module as a user may read them."""

    def __init__(self, module: _Module) -> None:
        self._texts = module.texts

    @staticmethod
    def plain(text: str) -> str:
        """Return what the program says as it is."""
        return _escaped(text)

    @staticmethod
    def blank(name: str) -> str:
        """Return what stands for a value that is called so."""
        return f"*{_word(name)}*"

    def says_something(self, node: ast.expr) -> bool:
        """Return whether there is a word in a text that is known before the program runs."""
        return re.search(r"\w{2}", _VALUE.sub("", self.told(node))) is not None

    def told(self, node: ast.expr) -> str:
        """Return a text in Markdown, its values in italics."""
        match node:
            case ast.Constant(value=value):
                return self.plain(str(value))
            case ast.JoinedStr(values=parts):
                return "".join(self.told(one) for one in parts)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self.told(left) + self.told(right)
            case ast.FormattedValue(value=value):
                return self._value(value)
            case ast.Name(id=name) if name in self._texts:
                return self.told(self._texts[name])
        return self._value(node)

    def _value(self, node: ast.expr) -> str:
        match node:
            case ast.Constant():
                return self.told(node)
            case ast.Name(id=name) if name in self._texts:
                return self.told(self._texts[name])
            case ast.Name(id=name):
                return self.blank(name)
            case ast.Attribute(attr="name" | "id", value=ast.Name(id=owner)) if owner != "self":
                return self.blank(owner)
            case ast.Attribute(attr=name):
                return "*reason*" if name == "strerror" else f"*{_word(name)}*"
            case ast.Call():
                return self._result(node)
        return "…"

    def _result(self, call: ast.Call) -> str:
        name = _called(call)
        if name in _PLAIN_CALLS and call.args:
            return self._value(call.args[0])
        return {"len": "*number*", "join": "*list*"}.get(name, "…")


class _Templates(_Words):
    """Leaves a blank for every value."""

    @staticmethod
    def plain(text: str) -> str:
        return re.sub(r"\s+", " ", text)

    @staticmethod
    def blank(name: str) -> str:  # noqa: ARG004 (all are the same)
        return _BLANK

    def _value(self, node: ast.expr) -> str:
        match node:
            case ast.Constant():
                return self.told(node)
            case ast.Name(id=name) if name in self._texts:
                return self.told(self._texts[name])
        return _BLANK


def _numbered(text: str) -> str:
    """Write {1}, {2} and so on into the blanks."""
    first, *rest = text.split(_BLANK)
    return first + "".join(f"{{{n}}}{piece}" for n, piece in enumerate(rest, 1))


def _word(name: str) -> str:
    return name.strip("_").lower().replace("_", " ")


def _escaped(text: str) -> str:
    """Write a text so that Markdown leaves it as it is."""
    return _ESCAPED.sub(r"\\\1", re.sub(r"\s+", " ", text))


def _sorted_by(problem: str) -> str:
    return re.sub(r"[^\w ]", "", problem).strip().lower()
