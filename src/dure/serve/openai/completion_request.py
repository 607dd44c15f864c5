"""What /v1/completions takes: OpenAI's fields and llama-server's."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le

from dure.errors import ParameterError
from dure.http.request_model import examples
from dure.serve.openai.parameters import GenerationParameters, OpenAIStreamOptions
from dure.serve.openai.prompts import PromptField

__all__ = ["CompletionRequest"]


class CompletionRequest(GenerationParameters):
    """The body of /v1/completions."""

    model_config = examples(
        {"prompt": "Once upon a time", "max_tokens": 32},
        {"prompt": ["The bell", "The river"], "max_tokens": 16, "n": 2, "seed": 1, "stream": True},
        {"prompt": [1, 2, 3], "max_tokens": 16, "echo": True},
    )

    prompt: PromptField
    suffix: str | None = None
    echo: bool | None = None
    n: Annotated[int, Ge(1), Le(128)] | None = None
    best_of: Annotated[int, Ge(1), Le(128)] | None = None
    logprobs: Annotated[int, Ge(0), Le(20)] | None = None
    stream_options: OpenAIStreamOptions | None = None

    def n_answers(self) -> int:
        """Return the number of answers to generate for each prompt. Raises ParameterError."""
        n, best_of = self.n or 1, self.best_of or self.n or 1
        if best_of < n:
            raise ParameterError("best_of", f"best_of {best_of} is less than n {n}")
        if best_of > n and self.stream:
            raise ParameterError("best_of", "best_of cannot be streamed", "leave out one of both")
        return best_of

    def n_logprobs(self) -> int | None:
        """Return the number of alternatives of each token; 0 if only best_of needs logprobs."""
        if self.logprobs is None and self.n_answers() > (self.n or 1):
            return 0
        return self.logprobs

    def n_prompt_logprobs(self) -> int | None:
        """Return the number of alternatives of each token of an echoed prompt. Raises ParameterError."""
        if not self.echo or self.logprobs is None:
            return None
        if self.suffix:
            raise ParameterError(
                "suffix", "suffix: a prompt with a suffix has no logprobs", "leave out echo"
            )
        return self.logprobs
