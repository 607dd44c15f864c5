"""What /completion and /infill take: llama-server's fields."""

from __future__ import annotations

from typing import Annotated

from annotated_types import MaxLen

from dure.http.request_model import BodyPart, examples
from dure.serve.openai.parameters import GenerationParameters
from dure.serve.openai.prompts import PromptField, as_prompts

__all__ = ["InfillRequest", "NativeParameters", "NativeRequest"]


class NativeParameters(GenerationParameters):
    """What both take. response_fields: only these of the answer, parts named with `/`."""

    return_tokens: bool | None = None
    response_fields: Annotated[list[str], MaxLen(256)] | None = None

    def wants_list(self) -> bool:
        """Tell whether the answer is a list, even of one."""
        return False


class NativeRequest(NativeParameters):
    """The body of /completion."""

    model_config = examples(
        {"prompt": "Once upon a time", "n_predict": 32},
        {"prompt": "The answer is", "n_predict": 16, "grammar": 'root ::= " yes" | " no"'},
        {"prompt": ["The bell", [1, 2, "river"]], "n_predict": 16, "n_probs": 3, "stream": True},
    )

    prompt: PromptField

    def wants_list(self) -> bool:
        """Tell whether there is a list of prompts."""
        return isinstance(self.prompt, list) and as_prompts(self.prompt) != [self.prompt]


class InfillFile(BodyPart):
    """Another file of the project."""

    text: str
    filename: str | None = None


class InfillRequest(NativeParameters):
    """The body of /infill: what stands before and after the text that is wanted, and in other files.

    prompt: more of what stands before it.
    """

    model_config = examples(
        {"input_prefix": "def twice(n):\n    return ", "input_suffix": "\n", "n_predict": 16}
    )

    input_prefix: str = ""
    input_suffix: str = ""
    prompt: str | None = None
    input_extra: Annotated[list[InfillFile], MaxLen(1024)] | None = None
