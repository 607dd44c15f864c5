"""Evaluates models one after the other: the text, the original beside which they are judged, tasks, speed.

The entry point of this package. Refuses to know terminals, and how a model is started: it is given
functions that start one, and that read its words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dure.chat.reading import tokens_of
from dure.deploy.options import RunOptions
from dure.engine.executor import FullExecutor
from dure.engine.instruments.benchmark import BenchRuns, measure
from dure.engine.instruments.floor import bytes_used
from dure.errors import UsageError
from dure.evaluate.judge import Original, Progress, check_same_words, identity_of, scores_of
from dure.evaluate.judged_text import JudgedOn, Tools
from dure.evaluate.scores import Divergence, perplexity_of
from dure.evaluate.statistics import Estimate
from dure.evaluate.task_scores import PreparedTask, TaskScore, prepared_task
from dure.evaluate.tasks import TaskFile
from dure.evaluate.windows import LEAST_WINDOW, TextWindows, check_sizes
from dure.model.gguf import GgufFile, open_gguf
from dure.model.vocabulary import Vocabulary

__all__ = [
    "Evaluation",
    "Evaluator",
    "JudgedFile",
    "JudgedText",
    "MeasuredSpeed",
    "Subject",
]

_N_GENERATED = 32  # tokens, to measure the speed
_REPEAT = 3


@dataclass(frozen=True)
class Subject:
    """What models are judged on. original: beside which; data: a text; None: one of the model's own.

    most_windows: of the text, each of n_ctx tokens; None: all, or 16 of the model's own.
    """

    original: Path | None = None
    data: Path | None = None
    n_ctx: int = 512
    most_windows: int | None = None
    tasks: tuple[TaskFile, ...] = ()

    @property
    def has_text(self) -> bool:
        """Whether a text is judged, and not tasks alone."""
        return not self.tasks or self.original is not None or self.data is not None


@dataclass(frozen=True)
class JudgedFile:
    """A model's file. bytes_per_token: of weights that a token reads. fingerprint: see `GgufFile`."""

    name: str
    size_bytes: int
    bits_per_weight: float
    bytes_per_token: float
    fingerprint: str

    @classmethod
    def of(cls, model: GgufFile) -> JudgedFile:
        """Return the facts of a file."""
        n_weights = sum(tensor.n_elements for tensor in model.tensors.values())
        n_bytes = sum(tensor.size_bytes for tensor in model.tensors.values())
        used, part = bytes_used(model)
        return cls(
            model.paths[0].name,
            model.size_bytes,
            8 * n_bytes / max(1, n_weights),
            used * part,
            model.fingerprint,
        )


@dataclass(frozen=True)
class JudgedText:
    """What a model was judged on. source: a file of text, or the model that wrote it.

    sha256: of the tokens and their windows.
    """

    source: str
    is_own: bool
    sha256: str
    n_windows: int
    n_ctx: int

    @classmethod
    def of(cls, windows: TextWindows) -> JudgedText:
        """Return the facts of a text."""
        return cls(windows.source, windows.is_own, windows.sha256, windows.n_windows, windows.n_ctx)


@dataclass(frozen=True)
class MeasuredSpeed:
    """Tokens a second, medians of a few runs on an empty context, on ranks with some threads each."""

    generation: float
    prompt: float
    ranks: int
    threads: int

    @classmethod
    def of(cls, executor: FullExecutor, progress: Progress) -> MeasuredSpeed:
        """Measure an executor."""
        n_prompt = min(executor.info.n_ctx, executor.info.n_batch)
        runs = BenchRuns(n_prompt, min(_N_GENERATED, n_prompt), depth=0, repeat=_REPEAT)
        found = measure(executor, runs, progress)
        return cls(
            found.generation.tokens_per_s.median,
            found.prompt.tokens_per_s.median,
            found.ranks,
            found.threads,
        )


@dataclass(frozen=True)
class Evaluation:
    """All that was found out about a model.

    perplexity, divergence: of the text; None without one, or without an original. original_tasks: the
    original's scores on the same tasks. sums: how ranks exchange partial sums; "" with one rank.
    """

    model: JudgedFile
    original: JudgedFile | None
    text: JudgedText | None
    perplexity: Estimate | None
    divergence: Divergence | None
    tasks: tuple[TaskScore, ...]
    original_tasks: tuple[TaskScore, ...]
    speed: MeasuredSpeed
    sums: str


class Evaluator:
    """Evaluates any number of models on one subject. options: how each is started."""

    def __init__(self, subject: Subject, options: RunOptions, tools: Tools) -> None:
        self._subject, self._options, self._tools = subject, options, tools

    def evaluate(self, models: Sequence[Path]) -> Iterator[Evaluation]:
        """Yield what is found out about each model. Raises UsageError if they cannot be compared."""
        subject = self._subject
        check_sizes(subject.n_ctx, subject.most_windows)
        if len(models) > 1 and subject.has_text and not (subject.data or subject.original):
            raise UsageError(
                "several models need one text", "name a text with --data, or their original"
            )
        for model in models if subject.original else ():
            self._check_words(model)
        windows = self._windows(subject.original or models[0]) if subject.has_text else None
        beside = self._read_original(windows) if subject.original and windows else None
        for model in models:
            yield self._judged(model, windows, beside)

    def _check_words(self, model: Path) -> None:
        assert self._subject.original
        with open_gguf(self._subject.original) as original, open_gguf(model) as gguf:
            check_same_words(original, gguf)

    # ------------------------------------------------------------ the text

    def _windows(self, author: Path) -> TextWindows:
        wanted = self._subject
        text = JudgedOn(
            author, self._identity(author), wanted.data, wanted.n_ctx, wanted.most_windows
        )
        return text.windows(self._tools)

    def _identity(self, model: Path) -> str:
        with open_gguf(model) as gguf:
            return identity_of(gguf, self._options)

    # ------------------------------------------------------------ the original

    def _read_original(self, windows: TextWindows) -> _Beside:
        path = self._subject.original
        assert path
        original = Original(windows, self._identity(path))
        scores: tuple[TaskScore, ...] = ()
        if self._subject.tasks or not original.is_complete:
            with self._running(path) as (executor, vocabulary, tasks):
                with self._tools.watch(f"reading with {path.name}") as progress:
                    original.fill(executor, progress)
                scores = self._scores(executor, vocabulary, tasks)
        with open_gguf(path) as gguf:
            return _Beside(JudgedFile.of(gguf), original, scores)

    # ------------------------------------------------------------ a model

    def _judged(
        self, path: Path, windows: TextWindows | None, beside: _Beside | None
    ) -> Evaluation:
        perplexity, divergence = None, None
        identity = self._identity(path)
        with self._running(path) as (executor, vocabulary, tasks):
            if windows:
                with self._tools.watch(f"reading with {path.name}") as progress:
                    if beside:
                        divergence = beside.original.compare(executor, identity, progress)
                        perplexity = divergence.perplexity
                    else:
                        scores = scores_of(executor, windows, identity, progress=progress)
                        perplexity = perplexity_of(scores)
            task_scores = self._scores(executor, vocabulary, tasks)
            with self._tools.watch(f"timing {path.name}") as progress:
                speed = MeasuredSpeed.of(executor, progress)
        with open_gguf(path) as gguf:
            model = JudgedFile.of(gguf)
        return Evaluation(
            model=model,
            original=beside.file if beside else None,
            text=JudgedText.of(windows) if windows else None,
            perplexity=perplexity,
            divergence=divergence,
            tasks=task_scores,
            original_tasks=beside.tasks if beside else (),
            speed=speed,
            sums=self._options.wire.value if speed.ranks > 1 else "",
        )

    @contextmanager
    def _running(self, path: Path) -> Iterator[tuple[FullExecutor, Vocabulary, list[PreparedTask]]]:
        """Run a model with a context for the text and every question."""
        with self._tools.read(path) as (vocabulary, texts):
            most = max(vocabulary.n_ctx_train, LEAST_WINDOW)

            def tokenize(text: str) -> list[int]:
                return texts.call(tokens_of, text, False, True)

            tasks = [
                prepared_task(task, vocabulary, tokenize, most) for task in self._subject.tasks
            ]
            n_ctx = max([self._subject.n_ctx, *(min(task.n_ctx, most) for task in tasks)])
            with self._tools.start(path, n_ctx, 1) as (_, executor):
                yield executor, vocabulary, tasks

    def _scores(
        self, executor: FullExecutor, vocabulary: Vocabulary, tasks: Sequence[PreparedTask]
    ) -> tuple[TaskScore, ...]:
        scores = []
        for task in tasks:
            with self._tools.watch(f"asking {task.name}") as progress:
                scores.append(task.score(executor, vocabulary, progress))
        return tuple(scores)


@dataclass(frozen=True)
class _Beside:
    """The original: its file, what it gives on the text, and its scores on the tasks."""

    file: JudgedFile
    original: Original
    tasks: tuple[TaskScore, ...]
