"""What /completion takes: llama-server's fields."""

from __future__ import annotations

from typing import Annotated

from annotated_types import MaxLen

from dure.http.request_model import examples
from dure.serve.openai.parameters import GenerationParameters
from dure.serve.openai.prompts import PromptField

__all__ = ["NativeRequest"]


class NativeRequest(GenerationParameters):
    """The body of /completion. response_fields: only these of the answer, parts named with `/`."""

    model_config = examples(
        {"prompt": "Once upon a time", "n_predict": 32},
        {"prompt": "The answer is", "n_predict": 16, "grammar": 'root ::= " yes" | " no"'},
        {"prompt": ["The bell", [1, 2, "river"]], "n_predict": 16, "n_probs": 3, "stream": True},
    )

    prompt: PromptField
    return_tokens: bool | None = None
    response_fields: Annotated[list[str], MaxLen(256)] | None = None
