"""Tokenizes prompts: text, tokens, or both, as completions and embeddings take them.

Knows the shapes and how they become tokens. Refuses to know what is done with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MaxLen
from pydantic import Field

from dure.errors import ParameterError
from dure.http.request_model import BodyPart
from dure.serve.served_model import ServedModel

__all__ = ["ContentObject", "PromptField", "PromptObject", "TokenId", "Tokenizer", "as_prompts"]

TokenId = Annotated[int, Ge(0), Le(2**31 - 1)]
Mixed = list[TokenId | str]


class PromptObject(BodyPart):
    """A prompt as llama-server writes one that might bring images along."""

    prompt_string: str
    multimodal_data: Any = None


class TextContent(BodyPart):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ContentObject(BodyPart):
    """A text in pieces."""

    content: Annotated[list[TextContent], Field(min_length=1)]


PromptField = (
    str | PromptObject | Annotated[list[TokenId | str | Mixed | PromptObject], MaxLen(1 << 20)]
)


def as_prompts(given: Any) -> list[Any]:
    """Return the prompts of a field: a text, an object or a list with a token in it is one prompt."""
    if not isinstance(given, list):
        return [given]
    if any(isinstance(part, int) for part in given):
        return [given]
    return given


class Tokenizer:
    """Makes tokens of prompts. param: the field that errors name."""

    def __init__(self, model: ServedModel, param: str) -> None:
        self._model, self._param = model, param

    async def many(self, given: Any) -> list[list[int]]:
        """Return the tokens of a field's prompts. Raises ParameterError for an empty prompt or list."""
        prompts = [await self.one(prompt) for prompt in as_prompts(given)]
        if not prompts:
            raise ParameterError(self._param, f"{self._param}: the list is empty")
        for tokens in prompts:
            if not tokens:
                raise ParameterError(
                    self._param, f"{self._param}: a prompt is empty", "give some text"
                )
        return prompts

    async def one(self, prompt: Any) -> list[int]:
        """Return the tokens of one prompt; one that begins with text begins as the model wants."""
        if isinstance(prompt, PromptObject):
            if prompt.multimodal_data:
                raise ParameterError(
                    self._param,
                    f"{self._param}: multimodal_data: the model sees no images and hears nothing",
                    "send text alone",
                )
            prompt = prompt.prompt_string
        elif isinstance(prompt, ContentObject):
            prompt = "".join(part.text for part in prompt.content)
        if isinstance(prompt, str):
            return await self._model.tokenize(prompt, special=True)
        return await self._mixed(prompt)

    async def _mixed(self, parts: Sequence[int | str], *, add_bos: bool = True) -> list[int]:
        tokens: list[int] = []
        for part in parts:
            if isinstance(part, str):
                begins = add_bos and not tokens
                tokens += await self._model.tokenize(part, special=True, add_bos=begins)
            elif isinstance(part, int):
                tokens.append(part)
            else:
                raise ParameterError(self._param, f"{self._param}: a prompt inside of a prompt")
        self._model.check_tokens(tokens, self._param)
        return tokens
