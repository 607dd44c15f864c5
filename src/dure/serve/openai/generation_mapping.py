"""Makes an answer's options of the parameters of generation and the server's defaults.

Knows which parameters say the same, and how texts that are biased become tokens.
Refuses to know HTTP and prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from dure.chat.task import GenerationOptions
from dure.engine.adapters import AdapterSet
from dure.errors import ParameterError
from dure.generate.request import Owner, Sampling
from dure.serve.openai.parameters import GenerationParameters
from dure.serve.served_model import ServedModel
from dure.serve.state import ServerState

__all__ = ["MAX_ANSWERS", "options_of"]

MAX_ANSWERS = 256  # of one request

_MAPPED = {"dry_sequence_breakers", "logit_bias"}
_SAMPLING = tuple(name for name in Sampling.__struct_fields__ if name not in _MAPPED)


async def options_of(
    request: GenerationParameters, server: ServerState, caller: Owner, n_logprobs: int | None = None
) -> GenerationOptions:
    """Return how to generate. n_logprobs: instead of the request's `n_probs`.

    Raises ParameterError or UsageError naming the parameter.
    """
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    return GenerationOptions(
        sampling=await _sampling(request, server.sampling, server.model),
        max_tokens=_max_tokens(request),
        stop=tuple(text for text in stop if text),
        n_logprobs=n_logprobs if n_logprobs is not None else request.n_probs or None,
        post_sampling=bool(request.post_sampling_probs),
        ignore_eos=bool(request.ignore_eos),
        cache_prompt=request.cache_prompt is not False,
        owner=caller,
        adapters=_adapters(request, server.model),
    )


def _adapters(request: GenerationParameters, model: ServedModel) -> AdapterSet:
    if not request.lora:  # an empty list asks for nothing, as with llama-server
        return model.variant(request.model).adapters
    return model.adapters.chosen(((one.id, one.scale) for one in request.lora), "lora")


def _max_tokens(request: GenerationParameters) -> int | None:
    given = {name: n for name in request.MAX_NAMES if (n := getattr(request, name)) is not None}
    if len(set(given.values())) > 1:
        names = " and ".join(given)
        raise ParameterError(next(iter(given)), f"{names} say different things", "give one")
    limit = next(iter(given.values()), -1)
    return None if limit < 0 else limit


async def _sampling(
    request: GenerationParameters, defaults: Sampling, model: ServedModel
) -> Sampling:
    given: dict[str, Any] = {
        name: value for name in _SAMPLING if (value := getattr(request, name)) is not None
    }
    if given.get("top_k") == -1:
        given["top_k"] = 0
    if given.get("seed") == -1:
        given["seed"] = None
    if request.dry_sequence_breakers is not None:
        given["dry_sequence_breakers"] = await _breakers(request.dry_sequence_breakers, model)
    if request.logit_bias is not None:
        given["logit_bias"] = await _biases(request.logit_bias, model)
    return msgspec.structs.replace(defaults, **given) if given else defaults


async def _breakers(texts: Sequence[str], model: ServedModel) -> tuple[str, ...]:
    """Return texts that the engine's DRY will tokenize, once it is known that this can be done."""
    for text in texts:
        await model.tokenize(text, add_bos=False)
    return tuple(texts)


async def _biases(given: Mapping[str, Any] | list[Any], model: ServedModel) -> dict[int, float]:
    """Return the bias of each token. A text biases all of its tokens."""
    pairs = given.items() if isinstance(given, Mapping) else [_pair(pair) for pair in given]
    biases: dict[int, float] = {}
    for key, value in pairs:
        bias = float("-inf") if value is False else float(value)
        for token in await _bias_tokens(key, model):
            biases[token] = bias
    return biases


def _pair(pair: list[Any]) -> tuple[int | str, float | Literal[False]]:
    key, value = pair
    if isinstance(key, bool) or not isinstance(key, int | str):
        raise ParameterError("logit_bias", f"logit_bias: {key!r} is neither a token nor a text")
    if value is not False and (isinstance(value, bool | str) or not abs(value) <= 1e9):
        raise ParameterError("logit_bias", f"logit_bias: {value!r} is neither a number nor false")
    return key, value


async def _bias_tokens(key: int | str, model: ServedModel) -> list[int]:
    if isinstance(key, str) and not _is_number(key):
        return await model.tokenize(key, add_bos=False)
    token = int(key)
    model.check_tokens([token], "logit_bias")
    return [token]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 12
