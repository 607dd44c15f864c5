"""/v1/completions: text that is continued, streamed or whole.

Knows HTTP. Refuses to know conversations and how an answer is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fastapi import APIRouter, Request, Response

from dure.errors import ParameterError
from dure.http.body import JsonRoute
from dure.serve.dialect.answering import send_answer
from dure.serve.dialect.documentation import OPENAI_STYLE
from dure.serve.dialect.text_grammar import grammar_of
from dure.serve.openai.completion_answer import CompletionAnswer, Echo
from dure.serve.openai.completion_request import CompletionRequest
from dure.serve.openai.document import Completion
from dure.serve.openai.generation_mapping import MAX_ANSWERS, options_of
from dure.serve.openai.infill import with_suffix
from dure.serve.openai.prompts import Tokenizer
from dure.serve.openai.stream import OPENAI_STREAM
from dure.serve.runner import run_scored_texts
from dure.serve.served_model import ServedModel
from dure.serve.state import CurrentServer, caller_of

__all__ = ["router"]

router = APIRouter(route_class=JsonRoute, tags=["completions"])


@router.post("/v1/completions", **OPENAI_STYLE.route(Completion, stream=True))
async def create_completion(
    body: CompletionRequest, request: Request, server: CurrentServer
) -> Response:
    """Continue one or more texts."""
    body.verbose = body.verbose or server.shows_prompts
    model, n = server.model, body.n_answers()
    options = replace(
        await options_of(body, server, caller_of(request), body.n_logprobs()),
        prompt_logprobs=body.n_prompt_logprobs(),
    )
    prompts = await Tokenizer(model, "prompt").many(body.prompt)
    if len(prompts) * n > MAX_ANSWERS:
        raise ParameterError("n", f"more than {MAX_ANSWERS} answers at once", "ask for fewer")
    echoes = [_echo(model, prompt) if body.echo else Echo() for prompt in prompts]
    if body.suffix:
        prompts = [await with_suffix(model, prompt, body.suffix) for prompt in prompts]
    grammar = await grammar_of(model.texts, body.grammar, body.json_schema)
    prompt_text = _text(model, prompts[0]) if body.verbose else ""
    return await send_answer(
        request,
        run_scored_texts(model, prompts, options, grammar, n),
        CompletionAnswer(
            body, model.variant(body.model).name, server.fingerprint, echoes, prompt_text
        ),
        OPENAI_STREAM,
        stream=bool(body.stream),
        silence=server.silence,
    )


def _echo(model: ServedModel, prompt: Sequence[int]) -> Echo:
    first = model.piece(prompt[0], special=True).decode("utf-8", "replace")
    return Echo(list(map(model.piece, prompt)), first)


def _text(model: ServedModel, prompt: Sequence[int]) -> str:
    return b"".join(map(model.piece, prompt)).decode("utf-8", "replace")
