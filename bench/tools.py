"""Tools cost the same per token, however many there are and however long the answer has become.

Measures what a token costs beside the model itself, for each format of calls: it is chosen, the grammar
that waits for a call takes it in, and the answer's reader reads it. The model's part has no tools in it.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from measure import (
    Comparison,
    Quantity,
    Sample,
    compared,
    main,
    parser,
    progress,
    report,
    warn_if_busy,
)

from dure.chat.answer_reader import AnswerReader
from dure.chat.format import ChatFormatter, PreparedChat
from dure.chat.task import ChatTask, GenerationOptions, Tool
from dure.engine.executor import TopK
from dure.generate.request import Token
from dure.generate.sampling import Sampler, Sampling
from dure.model.gguf import open_gguf
from dure.model.vocabulary import Vocabulary

DEMO = Path(__file__).parent.parent / "models" / "dure-demo.gguf"
FEW, MANY = 1, 60  # tools
EARLY, LATE = 500, 6000  # tokens of the answer so far
TOKENS = 200  # that are measured from there on
ROUNDS, TARGET = 7, 1.1
N_BEST = 64  # candidates, as a step reports them where there is a grammar
PROSE = (
    "The old bell rings over the village, and the goat looks up from the barley. It is late, and "
)
_LOOP = "{%- for m in messages -%}{{ m.role + ': ' }}"
TEMPLATES = {
    "Hermes": "",  # the demo model's own
    "Llama 3": _LOOP
    + """{%- if m.tool_calls -%}
{{- '\n\n{"name": "' + m.tool_calls[0].function.name + '", "parameters": ' -}}
{{- m.tool_calls[0].function.arguments | tojson + '}' -}}
{%- else -%}{{- m.content -}}{%- endif -%}
{%- if loop.first and tools -%}{{- tools | tojson -}}{%- endif -%}{%- endfor -%}""",
    "gpt-oss": _LOOP
    + """{%- if m.tool_calls -%}
{{- '<|start|>assistant to=functions.' + m.tool_calls[0].function.name + '<|channel|>commentary json' -}}
{{- '<|message|>' + m.tool_calls[0].function.arguments | tojson + '<|call|>' -}}
{%- else -%}{{- '<|message|>' ~ m.content -}}{%- endif -%}{%- endfor -%}
{%- for t in tools or [] -%}{{- t.function.name -}}{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start|>assistant' -}}{%- endif -%}""",
}


def prepared(vocabulary: Vocabulary, template: str, n_tools: int) -> PreparedChat:
    """Return the chat of a model that has n tools to choose from."""
    place = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
    tools = [Tool(f"tool_number_{n}", "Looks at a place.", place) for n in range(n_tools)]
    formatter = ChatFormatter(vocabulary, default_template=template or None)
    return formatter.prepare(ChatTask([{"role": "user", "content": "Hello."}], tools=tools))


class LongAnswer:
    """An answer in the middle of its prose; it never calls a tool."""

    def __init__(self, vocabulary: Vocabulary, chat: PreparedChat, n_tokens: int) -> None:
        assert chat.grammar is not None
        assert chat.grammar.lazy
        words = vocabulary.tokenize(PROSE, add_bos=False)
        self._tokens = itertools.cycle(words)
        self._sampler = Sampler(Sampling(temperature=0), vocabulary, grammar=chat.grammar)
        self._reader = AnswerReader.of_chat(
            lambda token, special: vocabulary.piece(token, special=special),
            chat,
            GenerationOptions(),
        )
        for _ in range(n_tokens):
            self.token_s()

    def token_s(self) -> float:
        """Return the processor time of the next token, in seconds."""
        ids, logits = np.arange(N_BEST, dtype=np.int32), -np.arange(N_BEST, dtype=np.float32)
        ids[0] = token = next(self._tokens)
        top = TopK(ids, logits, math.nan)
        begun = time.thread_time()
        self._sampler.accept(self._sampler.choose(top, lambda: logits))
        list(self._reader.feed(Token("", token)))
        return time.thread_time() - begun


def measured(answers: Mapping[str, LongAnswer]) -> dict[str, Sample]:
    """Return the median microseconds of a token of each answer; they take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in answers}
    for _ in range(TOKENS):
        for name, answer in answers.items():
            seconds[name].append(answer.token_s())
    return {name: {"us": 1e6 * statistics.median(some)} for name, some in seconds.items()}


def named(n_tools: int, length: int) -> str:
    """Return the name of an answer of this length, with so many tools."""
    return f"{n_tools} {'tool' if n_tools == 1 else 'tools'}, at {length}"


def comparisons_of(vocabulary: Vocabulary, name: str, rounds: int) -> list[Comparison]:
    """Compare many tools with few at both lengths, and both lengths of one answer."""
    chats = {n: prepared(vocabulary, TEMPLATES[name], n) for n in (FEW, MANY)}
    samples: dict[str, list[Sample]] = {}
    for number in range(rounds):
        answers = {
            named(n, length): LongAnswer(vocabulary, chats[n], length)
            for n, length in itertools.product((FEW, MANY), (EARLY, LATE))
        }
        for key, sample in measured(answers).items():
            samples.setdefault(key, []).append(sample)
        progress(f"{name}, round {number + 1}/{rounds}")
    quantity = Quantity("us", f"a token of {name}", "µs", TARGET, at_least=False)
    pairs = [(named(MANY, length), named(FEW, length)) for length in (EARLY, LATE)]
    pairs += [(named(n, LATE), named(n, EARLY)) for n in (FEW, MANY)]
    return [one for pair in pairs for one in compared(samples, *pair, [quantity])]


def run() -> int:
    """Measure, print, and return the exit status."""
    arguments = parser(__doc__, ROUNDS)
    arguments.add_argument(
        "--model", type=Path, default=DEMO, help="whose vocabulary (%(default)s)"
    )
    options = arguments.parse_args()
    warn_if_busy()
    with open_gguf(options.model) as gguf:
        vocabulary = Vocabulary(gguf)
        found = [c for name in TEMPLATES for c in comparisons_of(vocabulary, name, options.rounds)]
        vocabulary.close()
    return report("tools", {"rounds": options.rounds}, found, options.json)


if __name__ == "__main__":
    main(run)
