"""Writes the parts of these pages that come from the program, and what the Tab key knows: `make docs`.

A part stands between two comments, `<!-- generated: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from api_page import addresses, statuses
from error_texts import troubleshooting
from planning import (
    comparison_table,
    measured_table,
    pipeline_table,
    pods_table,
    published_table,
    ranks_table,
)

from dure.cli.app import COMMANDS
from dure.cli.terminal.lazy_commands import LazyCommands
from dure.cli.terminal.outlines import outline_of
from dure.doctor.checks import CHECKS
from dure.doctor.checks.model_file import MODEL_CHECKS
from dure.doctor.checks.node_link import LINK_CHECKS
from dure.http.request_model import RequestBody, field_names
from dure.http.unused_fields import FieldTable, Ignored
from dure.serve.anthropic.requests import MessagesRequest
from dure.serve.ollama.requests import EmbedRequest, GenerateRequest, OllamaChatRequest
from dure.serve.openai.adapters import LoadAdapterRequest, UnloadAdapterRequest
from dure.serve.openai.chat_request import OpenAIChatRequest
from dure.serve.openai.completion_request import CompletionRequest
from dure.serve.openai.embeddings import EmbeddingRequest
from dure.serve.openai.native_request import InfillRequest, NativeRequest
from dure.serve.openai.rerank import RerankRequest
from dure.serve.responses.requests import ResponsesRequest
from dure.worker.lifecycle import diagram

DIALECTS: tuple[tuple[str, tuple[tuple[str, type[RequestBody]], ...]], ...] = (
    (
        "OpenAI chat and completions, llama-server",
        (
            ("/v1/chat/completions", OpenAIChatRequest),
            ("/v1/completions", CompletionRequest),
            ("/completion", NativeRequest),
            ("/infill", InfillRequest),
        ),
    ),
    (
        "OpenAI embeddings, and reranking",
        (("/v1/embeddings", EmbeddingRequest), ("/v1/rerank", RerankRequest)),
    ),
    (
        "Adapters, as vLLM",
        (
            ("/v1/load_lora_adapter", LoadAdapterRequest),
            ("/v1/unload_lora_adapter", UnloadAdapterRequest),
        ),
    ),
    ("OpenAI Responses", (("/v1/responses", ResponsesRequest),)),
    ("Anthropic", (("/v1/messages", MessagesRequest),)),
    (
        "Ollama",
        (
            ("/api/chat", OllamaChatRequest),
            ("/api/generate", GenerateRequest),
            ("/api/embed", EmbedRequest),
        ),
    ),
)


def field_tables() -> str:
    """What happens to every field of every dialect: used, ignored or refused, and why."""
    parts = []
    for title, bodies in DIALECTS:
        used = [
            f"- `{path}` uses {', '.join(f'`{name}`' for name in sorted(field_names(body)))}."
            for path, body in bodies
        ]
        rows = [*_rows(bodies[0][1].FIELDS)]
        table = ["| field | | why |", "|---|---|---|", *rows]
        parts.append("\n".join([f"### {title}\n", *used, "", *table]))
    return "\n\n".join(parts)


def checks() -> str:
    """The doctor's checks: what each asks, and why that matters."""
    rows = [
        f"| {one.name} | {(one.judge.__doc__ or '').removeprefix('Judge ').rstrip('.')} | {one.why} |"
        for one in (*CHECKS, *LINK_CHECKS, *MODEL_CHECKS)
    ]
    return "\n".join(["| check | it judges | because |", "|---|---|---|", *rows])


def outlines() -> str:
    """The outlines of all commands, as `dure.cli.terminal.outlines` reads them."""
    found = {name: outline_of(command) for name, command in LazyCommands(COMMANDS).items()}
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def _rows(table: FieldTable) -> Iterator[str]:
    for path, fate in sorted(table.items()):
        kind = "ignored" if isinstance(fate, Ignored) else "refused"
        if isinstance(fate, Ignored) and fate.wish:
            kind = "ignored; refused by `--strict`"
        values = ", ".join(f"`{json.dumps(value)}`" for value in fate.unless)
        but = f" ({values}: granted)" if values else ""
        yield f"| `{path}` | {kind}{but} | {fate.reason} |"


PARTS: Mapping[str, tuple[str, Callable[[], str]]] = {
    "lifecycle": ("architecture.md", diagram),
    "checks": ("doctor.md", checks),
    "fields": ("compatibility.md", field_tables),
    "published-speeds": ("planner.md", published_table),
    "measurements": ("planner.md", measured_table),
    "comparison": ("planner.md", comparison_table),
    "ranks": ("scale.md", ranks_table),
    "pipeline": ("scale.md", pipeline_table),
    "pods": ("scale.md", pods_table),
    "statuses": ("api.md", statuses),
    "addresses": ("api.md", addresses),
    "errors": ("troubleshooting.md", troubleshooting),
}
"""By name: the page, and what makes the part."""


OUTLINES = Path(__file__).parents[1] / "src" / "dure" / "cli" / "terminal" / "outlines.json"


def renewed(page: str, name: str, part: str) -> str:
    """A page's text with one part as it is now. Raises ValueError where the page has no place for it."""
    begin, end = f"<!-- generated: {name} -->\n", "\n<!-- end -->"
    pattern = re.escape(begin) + ".*?" + re.escape(end)
    text, n = re.subn(pattern, lambda _: begin + part + end, page, flags=re.DOTALL)
    if n != 1:
        raise ValueError(f"the page has {n} places for {name} instead of one")
    return text


def main() -> None:
    """Write every part anew."""
    for name, (file, make) in PARTS.items():
        path = Path(__file__).parent / file
        path.write_text(renewed(path.read_text(), name, make()))
    OUTLINES.write_text(outlines())


if __name__ == "__main__":
    main()
