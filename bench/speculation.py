"""Speculative decoding: generation with and without it, on texts that repeat themselves and on a new one.

The demo model writes the texts, so that they are real. A dense shape with random weights computes them: a
step costs what it costs with that shape, and the chosen token is always the text's next one. So the
accepted draft tokens are realistic, and so is the time.

    python bench/speculation.py
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from measure import (
    BenchError,
    Comparison,
    Contender,
    Quantity,
    Sample,
    compare,
    main,
    parser,
    positive,
    report,
)
from shapes import add_model_options, gguf_file

from dure.chat.reading import TextTools, prepared_chat
from dure.chat.turn import Conversations
from dure.engine.executor import Executor, Floats, TopK
from dure.engine.limits import Limits
from dure.engine.local import LocalExecutor
from dure.generate.loop import EngineLoop
from dure.generate.request import Done, Request, Sampling, Token
from dure.generate.sampling import Sampler
from dure.generate.speculative.budget import budget_for
from dure.generate.speculative.proposer import Proposer
from dure.model.gguf import open_gguf
from dure.model.vocabulary import Vocabulary

DEMO = Path(__file__).parent.parent / "models" / "dure-demo.gguf"
GREEDY = Sampling(temperature=0)
N_CTX = 2048
FIRST, OTHER = "Tell me a story about a goat.", "Tell me a story about a spoon."


@dataclass(frozen=True)
class Text:
    """A prompt, and the demo model's answer."""

    prompt: list[int]
    answer: list[int]


class Written:
    """A sampler that chooses a text's tokens, whatever the logits are."""

    n_best, can_draft, is_slow = 1, True, False

    def __init__(self, answer: Sequence[int]) -> None:
        self._rest = list(reversed(answer))

    def adjustment(self, _ahead: Sequence[int] = ()) -> None:
        """Return no adjustment."""

    def choose(self, _best: TopK, _whole: Callable[[], Floats]) -> int:
        """Return the text's next token."""
        return self._rest[-1]

    def accept(self, _token: int) -> None:
        """Advance by one token."""
        self._rest.pop()


class Recital(EngineLoop):
    """Computes a given text."""

    def __init__(
        self, executor: Executor, vocabulary: Vocabulary, proposer: Proposer | None
    ) -> None:
        super().__init__(executor, vocabulary, proposer=proposer)
        self.text: Sequence[int] = ()

    def _sampler(self, _request: Request) -> Sampler:
        return Written(self.text)  # type: ignore[return-value]

    def recite(self, text: Text) -> Done:
        """Compute the end of the answer."""
        self.text = text.answer
        asked = Request(
            id="r", prompt=text.prompt, sampling=GREEDY, max_tokens=len(text.answer),
            ignore_eos=True, cache_prompt=False,
        )  # fmt: skip
        self.submit(asked)
        while self.busy:
            for event in self.step():
                if isinstance(event, Done):
                    return event
        raise BenchError("the text did not end")


def texts(n_tokens: int) -> dict[str, Text]:
    """Return the demo model's texts: a story, the same story again, another story."""
    with open_gguf(DEMO) as gguf:
        vocabulary = Vocabulary(gguf)
        chats = Conversations(vocabulary, partial(prepared_chat, TextTools.of(vocabulary)))
        executor = LocalExecutor(DEMO, Limits(N_CTX, threads=1))
        loop = EngineLoop(executor, vocabulary)

        def say(*turns: str) -> Text:
            messages = [
                {"role": "assistant" if i % 2 else "user", "content": turn}
                for i, turn in enumerate(turns)
            ]
            prompt = chats.turn(messages).prompt
            loop.submit(Request(id="r", prompt=prompt, sampling=GREEDY, max_tokens=n_tokens))
            answer = []
            while loop.busy:
                answer += [e.token for e in loop.step() if isinstance(e, Token)]
            return Text(prompt, answer)

        story = say(FIRST)
        told = b"".join(vocabulary.piece(token) for token in story.answer).decode()
        quoted = Text(say(FIRST, told, FIRST).prompt, story.answer)
        found = {"new": story, "quoted": quoted, "another": say(FIRST, told, OTHER)}
        executor.close()
        vocabulary.close()
    return found


def contender(
    name: str, executor: Executor, vocabulary: Vocabulary, text: Text, proposer: Proposer | None
) -> Contender:
    """Return a contender: the generation of one text."""
    loop = Recital(executor, vocabulary, proposer)

    def measure() -> Sample:
        begun = time.perf_counter()
        done = loop.recite(text)
        took = time.perf_counter() - begun - done.timings.prompt_s
        accepted = done.timings.accepted / max(1, done.timings.drafted)
        return {"generation": done.timings.n_steps / took, "accepted": accepted}

    return Contender(name, measure)


def run() -> int:
    """Compare; return 0 if every target is met."""
    options = parser(__doc__, rounds=3)
    options.add_argument("--threads", type=positive, default=2, help="default %(default)s")
    options.add_argument("--tokens", type=positive, default=200, help="default %(default)s")
    add_model_options(options)
    arguments = options.parse_args()
    model = gguf_file(arguments.shape, arguments.dir)
    found = texts(arguments.tokens)
    goals = {"new": 0.97, "another": 0.97, "quoted": 1.5}
    executor = LocalExecutor(model, Limits(N_CTX, threads=arguments.threads))
    comparisons: list[Comparison] = []
    with open_gguf(DEMO) as demo, open_gguf(model) as gguf:
        vocabulary = Vocabulary(demo)
        for name, text in found.items():
            contenders = [
                contender("drafting", executor, vocabulary, text, Proposer(budget_for(gguf))),
                contender("plain", executor, vocabulary, text, None),
            ]
            quantity = Quantity("generation", f"generation, {name}", "tokens/s", goals[name])
            comparisons += compare([quantity], contenders, arguments.rounds)
    executor.close()
    settings = {"model": model.name, "threads": arguments.threads, "tokens": arguments.tokens,
                "rounds": arguments.rounds}  # fmt: skip
    return report("speculation", settings, comparisons, arguments.json)


if __name__ == "__main__":
    main(run)
