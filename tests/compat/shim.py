"""Stands in for `llama-server`: takes its flags and becomes `dure serve`.

Knows what each flag of llama-server that its tests use is called here.
Refuses what it cannot translate, by name. Flags that only choose how llama-server computes (batches,
attention, one range of cells) and the context beyond the demo model's are left out: `_NOTHING` below.

The tests name models that would have to be downloaded; all of them get the one file that
DURE_COMPAT_MODEL names. With DURE_COMPAT_LLAMA_SERVER the same file is served by that llama-server
instead: what fails there too fails because of the file.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

__all__ = ["UntranslatableError", "api_keys", "main", "to_dure", "to_llama_server"]

DEMO_CONTEXT = 2048
MODEL_VARIABLE = "DURE_COMPAT_MODEL"
LLAMA_SERVER_VARIABLE = "DURE_COMPAT_LLAMA_SERVER"


class UntranslatableError(Exception):
    """Flags of llama-server that `dure serve` has no word for."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag of llama-server. `to` makes our arguments of its value ("" where it takes none)."""

    to: Callable[[str], Sequence[str]]
    takes_value: bool = True


def _named(name: str) -> Flag:
    return Flag(lambda value: [name, value])


def _switch(name: str) -> Flag:
    return Flag(lambda _: [name], takes_value=False)


_NOTHING = Flag(lambda _: [], takes_value=False)
_NOTHING_OF_VALUE = Flag(lambda _: [])

BUILT_IN_TEMPLATES = {
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "llama3": (
        "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "command-r": (
        "{% set names = {'system': 'SYSTEM', 'user': 'USER', 'assistant': 'CHATBOT'} %}"
        "{% for m in messages %}<|START_OF_TURN_TOKEN|><|{{ names[m.role] }}_TOKEN|>"
        "{{ m.content }}<|END_OF_TURN_TOKEN|>{% endfor %}"
        "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}"
    ),
}
"""llama-server has templates by name, of which the tests use three; dure takes files only."""


def _template(text: str) -> Sequence[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".jinja", delete=False) as file:
        file.write(BUILT_IN_TEMPLATES.get(text, text))
    return ["--chat-template", file.name]


DURE_FLAGS: dict[str, Flag] = {
    "--host": _named("--host"),
    "--port": _named("--port"),
    "--alias": _named("--alias"),
    "--threads": _named("--threads"),
    "--parallel": _named("--parallel"),
    "--temp": _named("--temp"),
    "--seed": _named("--seed"),
    "--pooling": _named("--pooling"),
    "--cors-origins": _named("--cors-origin"),
    "--slots": _switch("--slots"),
    "--no-slots": _switch("--no-slots"),
    "--chat-template-file": _named("--chat-template"),
    "--chat-template": Flag(_template),
    "--reasoning": _named("--think"),
    # What `dure serve` always does.
    "--jinja": _NOTHING,
    "--no-jinja": _NOTHING,
    "--metrics": _NOTHING,
    "--cont-batching": _NOTHING,
    "--embedding": _NOTHING,
    "--no-ui": _NOTHING,
    # How work is cut into batches and memory is laid out is dure's own affair.
    "--batch-size": _NOTHING_OF_VALUE,
    "--ubatch-size": _NOTHING_OF_VALUE,
    "--kv-unified": _NOTHING,
    "-fa": _NOTHING_OF_VALUE,
    "--backend_sampling": _NOTHING,
    # The length of an answer whose request names none; a case that asserts it fails.
    "--n-predict": _NOTHING_OF_VALUE,
    "--verbose": _switch("--verbose"),
}

# Which model and from where: there is one file.
MODEL_FLAGS: dict[str, bool] = {
    "--hf-repo": True,
    "--hf-file": True,
    "--model-url": True,
    "--mmproj-url": True,
    "--model": True,
    "--offline": False,
    "--no-mmproj": False,
}


def to_dure(argv: Sequence[str], model: Path) -> list[str]:
    """The command that serves `model` as llama-server's arguments say.

    Raises UntranslatableError naming every flag that `dure serve` has no word for.
    """
    rest = list(argv)
    ours: list[str] = []
    unknown: list[str] = []
    while rest:
        name = rest.pop(0)
        if name in MODEL_FLAGS:
            del rest[: MODEL_FLAGS[name]]
        elif flag := DURE_FLAGS.get(name):
            ours += flag.to(rest.pop(0) if flag.takes_value else "")
        elif name == "--ctx-size":
            ours += ["--ctx", str(_context_of_a_slot(int(rest.pop(0)), argv))]
        elif name == "--api-key":
            rest.pop(0)  # the environment carries it: see api_keys
        elif name.startswith("-"):
            unknown.append(name)
    if "--cors-origins" not in argv:
        ours += ["--cors-origin", "*"]  # llama-server's default; ours lets no page in
    if unknown:
        raise UntranslatableError(f"`dure serve` has no word for {', '.join(unknown)}")
    return [sys.executable, "-m", "dure.cli.main", "serve", str(model), *ours]


def api_keys(argv: Sequence[str]) -> dict[str, str]:
    """The environment that tells `dure serve` its key: it takes none on the command line."""
    if "--api-key" not in argv:
        return {}
    return {"DURE_API_KEYS": argv[argv.index("--api-key") + 1]}


def _context_of_a_slot(total: int, argv: Sequence[str]) -> int:
    """llama-server divides its context between its slots; ours is every request's.

    It takes a longer context than its model's with a warning, dure refuses it.
    """
    slots = 1
    if "--parallel" in argv and "--kv-unified" not in argv:
        slots = int(argv[argv.index("--parallel") + 1])
    return min(total // slots, DEMO_CONTEXT)


def to_llama_server(argv: Sequence[str], model: Path, program: str) -> list[str]:
    """The command that serves `model` with llama-server itself, all other arguments as they are."""
    rest, kept = list(argv), []
    while rest:
        name = rest.pop(0)
        if name in MODEL_FLAGS:
            del rest[: MODEL_FLAGS[name]]
        else:
            kept.append(name)
    return [program, "--model", str(model), *kept]


def main(argv: Sequence[str]) -> NoReturn:
    """Become the server; exit with status 2 where its flags cannot be translated."""
    model = Path(os.environ[MODEL_VARIABLE])
    peer = os.environ.get(LLAMA_SERVER_VARIABLE)
    try:
        command = to_llama_server(argv, model, peer) if peer else to_dure(argv, model)
    except UntranslatableError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    environment = {**os.environ, **api_keys(argv)}
    os.execve(command[0], command, environment)  # noqa: S606 - it becomes the server, signals and all


if __name__ == "__main__":
    main(sys.argv[1:])
