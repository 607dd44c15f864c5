"""/completion and /infill: text that is continued, or filled in, in llama-server's own shape.

Knows HTTP. Refuses to know OpenAI's shape and how an answer is written.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from dure.errors import ParameterError
from dure.http.body import JsonRoute
from dure.serve.dialect.answering import send_answer
from dure.serve.dialect.documentation import OPENAI_STYLE
from dure.serve.dialect.text_grammar import grammar_of
from dure.serve.openai.document import NativeCompletion
from dure.serve.openai.generation_mapping import MAX_ANSWERS, options_of
from dure.serve.openai.infill import OtherFile, with_suffix
from dure.serve.openai.native_answer import NativeAnswer, NativePrompt
from dure.serve.openai.native_request import InfillRequest, NativeParameters, NativeRequest
from dure.serve.openai.prompts import Tokenizer
from dure.serve.openai.stream import LLAMA_SERVER_STREAM
from dure.serve.runner import run_texts
from dure.serve.served_model import ServedModel
from dure.serve.state import CurrentServer, ServerState, caller_of

__all__ = ["router"]

router = APIRouter(route_class=JsonRoute, tags=["llama-server"])
COMPLETIONS = NativeCompletion | list[NativeCompletion]


@router.post("/completion", **OPENAI_STYLE.route(COMPLETIONS, stream=True))
@router.post("/completions", **OPENAI_STYLE.route(COMPLETIONS, alias=True))
async def create_native_completion(
    body: NativeRequest, request: Request, server: CurrentServer
) -> Response:
    """Continue one or more texts, as llama-server does."""
    prompts = await Tokenizer(server.model, "prompt").many(body.prompt)
    if len(prompts) > MAX_ANSWERS:
        raise ParameterError("prompt", f"more than {MAX_ANSWERS} prompts at once", "give fewer")
    return await _answer(body, request, server, prompts)


@router.post("/infill", **OPENAI_STYLE.route(NativeCompletion, stream=True))
async def create_infill(body: InfillRequest, request: Request, server: CurrentServer) -> Response:
    """Write what stands between a prefix and a suffix, if the model was taught it."""
    before = await server.model.tokenize(body.input_prefix + (body.prompt or ""))
    files = [OtherFile(file.text, file.filename or "") for file in body.input_extra or ()]
    prompt = await with_suffix(
        server.model, before, body.input_suffix, files=files, param="input_suffix"
    )
    return await _answer(body, request, server, [prompt])


async def _answer(
    body: NativeParameters, request: Request, server: ServerState, prompts: list[list[int]]
) -> Response:
    model = server.model
    options = await options_of(body, server, caller_of(request))
    grammar = await grammar_of(model.texts, body.grammar, body.json_schema)
    repeated = [NativePrompt(len(prompt), _text(model, prompt)) for prompt in prompts]
    return await send_answer(
        request,
        run_texts(model, prompts, options, grammar),
        NativeAnswer(body, options, model.variant(body.model).name, repeated),
        LLAMA_SERVER_STREAM,
        stream=bool(body.stream),
        silence=server.silence,
    )


def _text(model: ServedModel, prompt: list[int]) -> str:
    pieces = (model.piece(token, special=True) for token in prompt)
    return b"".join(pieces).decode("utf-8", "replace")
