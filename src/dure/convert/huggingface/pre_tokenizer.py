"""How a byte-level tokenizer divides text before it merges: from tokenizer.json to llama.cpp's name for it.

The name is found by the rules themselves, not by the model's name. Refuses to know vocabularies.
Source: llama.cpp `llama-vocab.cpp` (`llm_tokenizer_bpe`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from dure.errors import ModelError
from dure.model.gguf.values import one_line

__all__ = ["pre_tokenizer_name", "pre_tokenizer_steps"]

_ENGLISH = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_MARKS = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"


def _cl100k(digits: str, letters: str = r"\p{L}", others: str = r"\s\p{L}\p{N}") -> str:
    return rf"{_ENGLISH}|{_BEFORE}{letters}+|{digits}| ?[^{others}]+[\r\n]*|{_SPACES}"


def _o200k(ending: str, digits: str) -> str:
    words = f"{_BEFORE}{_UPPER}*{_LOWER}+{ending}|{_BEFORE}{_UPPER}+{_LOWER}*{ending}"
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"


_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    rf"{_MARKS}|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}",
)
_GPT4O = (
    rf"{_BEFORE}((?=[\p{{L}}])([^a-z]))*((?=[\p{{L}}])([^A-Z]))+{_ENGLISH}?|"
    rf"{_BEFORE}((?=[\p{{L}}])([^a-z]))+((?=[\p{{L}}])([^A-Z]))*{_ENGLISH}?|"
    rf"\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_DEFAULT = (
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
    r"\p{N}+",
    "[0-9][0-9][0-9]",
)
_GPT2, _DIGITS = "gpt2", "digits"
_LETTERS_AND_MARKS = {"letters": r"[\p{L}\p{M}]", "others": r"\s\p{L}\p{M}\p{N}"}

_NAMES: Mapping[tuple[str, ...], tuple[str | None, str | None]] = {
    (_cl100k(r"\p{N}{1,3}"),): ("smaug-bpe", "llama-bpe"),
    (_cl100k(r"\p{N}"),): ("qwen2", None),
    (_cl100k(r"\p{N}", **_LETTERS_AND_MARKS),): ("qwen35", None),
    (_o200k(f"{_ENGLISH}?", r"\p{N}{1,3}"),): (None, "granite-embed-multi-97m"),
    (_o200k("", r"\p{N}"),): (None, "tekken"),
    _DEEPSEEK3: ("deepseek-v3", None),
    (_GPT2,): ("gpt-2", None),
    (_DIGITS, _GPT2): ("smollm", None),
    (_GPT4O,): ("gpt-4o", None),
    _DEFAULT: ("default", None),
}
"""llama.cpp's name by the patterns that divide, one after the other: if merges are kept to, and if a whole
word that is a token comes before them. The last two are llama.cpp's own: "gpt-4o" divides words before
combining marks, as in Hindi. Tokenizers that were made of a GGUF have them."""


_ALIASES: Mapping[str, str] = {
    **dict.fromkeys(["llama3", "llama-v3", "falcon3", "pixtral", "lfm2"], "llama-bpe"),
    **dict.fromkeys(["deepseek-r1-qwen", "kormo"], "qwen2"),
    **dict.fromkeys(["phi-2", "jina-es", "jina-de", "mellum", "modern-bert"], "gpt-2"),
    **dict.fromkeys(["llama4", "kanana2"], "gpt-4o"),
}
_PATTERNS: Mapping[str, tuple[tuple[str, ...], bool]] = {
    name: (patterns, bool(ignores))
    for patterns, names in _NAMES.items()
    for ignores, name in enumerate(names)
    if name is not None
}
"""By llama.cpp's name: the patterns that divide, and whether a whole word that is a token comes first."""


def pre_tokenizer_steps(name: str) -> tuple[list[dict[str, Any]], bool] | None:
    """Return the steps of a tokenizer.json that divide as llama.cpp does under this name, None if unknown.

    Also whether merges are ignored for a word that is a token.
    """
    found = _PATTERNS.get(_ALIASES.get(name, name))
    if found is None:
        return None
    patterns, ignores = found
    steps: list[dict[str, Any]] = []
    for pattern in patterns:
        if pattern == _DIGITS:
            steps.append({"type": "Digits", "individual_digits": True})
        elif pattern != _GPT2:
            division = {"pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
            steps.append({"type": "Split", **division})
    byte_level = {"add_prefix_space": False, "trim_offsets": False, "use_regex": _GPT2 in patterns}
    return [*steps, {"type": "ByteLevel", **byte_level}], ignores


def pre_tokenizer_name(tokenizer: Mapping[str, Any], all_merged: Callable[[], bool]) -> str:
    """Return llama.cpp's name of a byte-level tokenizer's rules. Raises ModelError if it has none.

    all_merged: whether merges make every token of its bytes; then it is the same whether they are ignored.
    """
    steps = _steps(tokenizer.get("pre_tokenizer"))
    patterns = tuple(one for step in steps for one in _patterns(step))
    ignores = tokenizer.get("model", {}).get("ignore_merges") is True
    names = _NAMES.get(patterns, (None, None))
    name, other = names[ignores], names[not ignores]
    if name is None and other is not None and all_merged():
        name = other
    if name is None:
        shown = " then ".join(patterns)
        _fail(f"it divides text by {one_line(shown)!r}" + (", and ignores merges" * ignores))
    return name


def _fail(what: str) -> NoReturn:
    raise ModelError(
        f"tokenizer.json: {what}, which llama.cpp's tokenizer does not know",
        "take this model as a GGUF that somebody made for it, if there is one",
    )


def _steps(entry: object) -> Sequence[Mapping[str, Any]]:
    if not isinstance(entry, dict):
        _fail("it has no pre_tokenizer")
    if entry.get("type") != "Sequence":
        return [entry]
    steps = entry.get("pretokenizers")
    if not isinstance(steps, list) or not all(isinstance(one, dict) for one in steps):
        _fail("its pre_tokenizer is no sequence")
    return steps


def _patterns(step: Mapping[str, Any]) -> list[str]:
    """Return the patterns of a step."""
    match step.get("type"):
        case "Split":
            pattern = step.get("pattern")
            text = pattern.get("Regex") if isinstance(pattern, dict) else None
            way = step.get("behavior"), step.get("invert", False)
            if isinstance(text, str) and way in (("Isolated", False), ("Removed", True)):
                return [text.replace("\r", r"\r").replace("\n", r"\n")]
        case "Digits":
            if step.get("individual_digits") is True:
                return [_DIGITS]
        case "ByteLevel":
            if step.get("add_prefix_space") is False:
                return [_GPT2] if step.get("use_regex", True) else []
    _fail(f"its step {one_line(repr(dict(step)))}")
