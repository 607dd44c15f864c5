"""A running model, as a program has it: texts and conversations in, answers and numbers out.

Knows what a program may ask. Refuses to know how a model is found and started.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal, Unpack, cast, overload

from dure.chat.answer_reader import AnswerReader, Promise
from dure.chat.reading import broken_promise, caller_grammar, prepared_chat, schema_grammar
from dure.chat.task import GenerationOptions
from dure.chat.thinking import Think
from dure.errors import UsageError
from dure.generate.request import Grammar, Request
from dure.library.answers import Answer
from dure.library.arguments import (
    AnswerArguments,
    Messages,
    Prompt,
    SamplingArguments,
    ToolArgument,
    batch_of,
    options_of,
    task_of,
)
from dure.library.reporting import log
from dure.library.stream import AnswerStream
from dure.library.tokens import ModelWithTokens

__all__ = ["Model"]


class Model(ModelWithTokens):
    """A running model; `dure.open` makes it. Close it, or let a `with` block do so: its ranks end.

    Any thread may call it: what several ask at the same time is computed together, `parallel` at once.
    Whatever it cannot do raises a DureError.
    """

    # ------------------------------------------------------------ texts

    @overload
    def generate(
        self, prompt: Prompt, *, stream: Literal[False] = ..., **how: Unpack[AnswerArguments]
    ) -> Answer: ...

    @overload
    def generate(
        self, prompt: Prompt, *, stream: Literal[True], **how: Unpack[AnswerArguments]
    ) -> AnswerStream: ...

    @overload
    def generate(
        self,
        prompt: list[str] | list[list[int]],
        *,
        stream: Literal[False] = ...,
        **how: Unpack[AnswerArguments],
    ) -> list[Answer]: ...

    def generate(
        self,
        prompt: Prompt | list[str] | list[list[int]],
        *,
        stream: bool = False,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        logprobs: int | None = None,
        json_schema: Mapping[str, Any] | None = None,
        grammar: str | None = None,
        lora: Mapping[int, float] | None = None,
        **sampling: Unpack[SamplingArguments],
    ) -> Answer | AnswerStream | list[Answer]:
        """Continue a text, without a chat template; a list of texts gets a list of answers.

        prompt: text, in which names of special tokens are these tokens, or tokens. stream: return the
        pieces as they come. max_tokens: of the answer; None: up to the end of the context. temperature: 0
        always takes the likeliest token. seed: of the random choices, None for another each time; the i-th
        prompt of a list has seed + i. stop: texts that end the answer, and are not part of it. logprobs:
        how many of the likeliest tokens come with each token. json_schema, grammar: what the text follows.
        lora: scales of adapters by number, and no others; None: as the model was opened.
        sampling: as in `SamplingArguments`; what is not given is as the model's file says.
        """
        options = options_of(
            self.generate,
            self._running.sampling,
            {**sampling, "temperature": temperature, "seed": seed},
            max_tokens=max_tokens,
            stop=stop,
            logprobs=logprobs,
            adapters=self._running.adapters.chosen(lora),
        )
        rules = self._rules(json_schema, grammar)
        if (batch := batch_of(prompt)) is None:
            begun = self._continue(cast(Prompt, prompt), options, rules)
            return begun if stream else _whole(begun)
        if stream:
            raise UsageError(
                "stream=True takes one prompt, not a list", "stream one after the other"
            )
        with ExitStack() as streams:
            all_begun = [
                streams.enter_context(self._continue(one, options, rules, i))
                for i, one in enumerate(batch)
            ]
            return [one.answer() for one in all_begun]

    def _rules(self, schema: Mapping[str, Any] | None, gbnf: str | None) -> Grammar | None:
        if schema is not None and gbnf is not None:
            raise UsageError("grammar and json_schema exclude each other", "give one")
        if schema is not None:
            return self._running.texts.call(schema_grammar, dict(schema))
        return None if gbnf is None else self._running.texts.call(caller_grammar, gbnf)

    def _continue(
        self, prompt: Prompt, options: GenerationOptions, rules: Grammar | None, index: int = 0
    ) -> AnswerStream:
        reader = AnswerReader.of_text(self._piece, options)
        return self._begin(options.request(self._tokens(prompt), rules, index=index), reader)

    # ------------------------------------------------------------ conversations

    @overload
    def chat(
        self,
        messages: Messages,
        *,
        stream: Literal[False] = ...,
        tools: Sequence[ToolArgument] = ...,
        tool_choice: str = ...,
        think: Think = ...,
        **how: Unpack[AnswerArguments],
    ) -> Answer: ...

    @overload
    def chat(
        self,
        messages: Messages,
        *,
        stream: Literal[True],
        tools: Sequence[ToolArgument] = ...,
        tool_choice: str = ...,
        think: Think = ...,
        **how: Unpack[AnswerArguments],
    ) -> AnswerStream: ...

    def chat(
        self,
        messages: Messages,
        *,
        stream: bool = False,
        tools: Sequence[ToolArgument] = (),
        tool_choice: str = "auto",
        think: Think = "auto",
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        logprobs: int | None = None,
        json_schema: Mapping[str, Any] | None = None,
        grammar: str | None = None,
        lora: Mapping[int, float] | None = None,
        **sampling: Unpack[SamplingArguments],
    ) -> Answer | AnswerStream:
        """Answer a conversation: a text, or messages as in OpenAI's chat API.

        `Answer.message` is the answer as a message, to go on with. tools: functions of yours, whose
        annotations and docstring the model is shown, or OpenAI's form; none is called for you.
        tool_choice: "auto", "none", "required", or the name of a tool. think: whether the model thinks
        before it answers, or how much; "auto" leaves it to the model. The rest is as for `generate`.
        """
        options = options_of(
            self.chat,
            self._running.sampling,
            {**sampling, "temperature": temperature, "seed": seed},
            max_tokens=max_tokens,
            stop=stop,
            logprobs=logprobs,
            adapters=self._running.adapters.chosen(lora),
        )
        if not self._running.vocabulary.has_chat_template:
            raise UsageError(f"{self.name} has no chat template", "use generate() to continue text")
        task = task_of(
            messages,
            tools=tools,
            tool_choice=tool_choice,
            json_schema=json_schema,
            grammar=grammar,
            think=think,
        )
        prepared = self._running.texts.call(prepared_chat, task)
        for reason in prepared.unmet.values():
            log.warning("think=%r: %s", think, reason)
        reader = AnswerReader.of_chat(self._piece, prepared, options)
        request = options.request(prepared.prompt, prepared.grammar)
        request.return_points = prepared.return_points
        begun = self._begin(request, reader)
        return begun if stream else _whole(begun)

    def _begin(self, request: Request, reader: AnswerReader) -> AnswerStream:
        return AnswerStream(self._loop, request, reader, self._complaint)

    def _complaint(self, promise: Promise) -> str | None:
        return self._running.texts.call(broken_promise, promise)


def _whole(stream: AnswerStream) -> Answer:
    with stream:
        return stream.answer()
