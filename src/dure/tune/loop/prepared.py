"""The data of a run, read and encoded for its model, before the model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dure.errors import UsageError
from dure.tune.base import config_of, ends_of, tokenizer_of
from dure.tune.data.chat_text import ChatText
from dure.tune.data.encoder import ExampleEncoder
from dure.tune.data.examples import Examples, read_examples
from dure.tune.data.generated import HELD_OUT_ROWS, GeneratedRows, is_generated, writer_named
from dure.tune.data.records import read_records
from dure.tune.data.rows import FileRows, RowSource
from dure.tune.loop.learner import new_config
from dure.tune.settings import TuneMethod, TuneSettings

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

__all__ = ["Prepared", "encoder_of", "prepared_of"]

LEAST_CTX, USUAL_CTX = 512, 2048


@dataclass(frozen=True)
class Prepared:
    """What a run learns from.

    config: of the model. ctx: tokens of a row. text: what was read, in words; notes: what a user may not
    expect; counts: in numbers. make: the rows, packed or not.
    """

    settings: TuneSettings
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    ctx: int
    text: str
    notes: tuple[str, ...]
    counts: dict[str, int]
    make: Callable[[bool], RowSource]

    def source(self, pack: bool) -> RowSource:
        """Return the rows of all steps. pack: examples share rows."""
        return self.make(pack)

    def steps(self, source: RowSource) -> int:
        """Return the steps of the run."""
        if self.settings.steps is not None:
            return self.settings.steps
        assert isinstance(source, FileRows), "a function was checked to have --steps"
        return source.steps_of(self.settings.epochs)


def prepared_of(settings: TuneSettings) -> Prepared:
    """Read all data of a run. Raises UsageError, ModelError or ResourceError."""
    tokenizer = tokenizer_of(settings.base)
    config = _config(settings, tokenizer)
    encoder = encoder_of(settings, tokenizer)
    if any(map(is_generated, settings.data)):
        return _generated(settings, config, tokenizer, encoder)
    most = getattr(config, "max_position_embeddings", None) or USUAL_CTX
    if settings.ctx is not None and settings.ctx > most:
        raise UsageError(
            f"--ctx {settings.ctx} is longer than the {most} tokens that the model was made for",
            f"use --ctx {most} or less",
        )
    limit = settings.ctx or min(most, USUAL_CTX)
    examples, summary = read_examples(
        chain.from_iterable(read_records(Path(one)) for one in settings.data),
        encoder,
        limit,
        long=settings.long,
        eval_split=settings.eval_split,
    )
    ctx = settings.ctx or min(limit, max(LEAST_CTX, int(examples.lengths.max())))
    return Prepared(
        settings,
        config,
        tokenizer,
        ctx,
        summary.sentence(),
        tuple(summary.notes()),
        {
            "examples": summary.examples,
            "tokens": summary.tokens,
            "answers": summary.answers,
            "held_out": summary.held_out,
        },
        lambda pack: _file_rows(examples, ctx, settings, pack),
    )


def _file_rows(examples: Examples, ctx: int, settings: TuneSettings, pack: bool) -> FileRows:
    return FileRows(
        examples, ctx, rows_per_step=settings.rows_per_step, seed=settings.seed, pack=pack
    )


def _generated(
    settings: TuneSettings, config: Any, tokenizer: Any, encoder: ExampleEncoder
) -> Prepared:
    if len(settings.data) > 1:
        raise UsageError("a function of --data is the only data of a run", "give one --data")
    if settings.steps is None:
        raise UsageError(
            f"--data {settings.data[0]} writes without end, so an epoch has none",
            "give the length of the run with --steps",
        )
    name, ctx = settings.data[0], settings.ctx or LEAST_CTX
    held_out = HELD_OUT_ROWS if settings.eval_split else 0
    rows = GeneratedRows(
        name,
        writer_named(name),
        encoder,
        ctx,
        n_rows=settings.rows_per_step,
        n_held_out=held_out,
        seed=settings.seed,
    )
    counts = {"examples": 0, "tokens": 0, "answers": 0, "held_out": held_out}
    return Prepared(
        settings,
        config,
        tokenizer,
        ctx,
        f"examples that {name} writes during the run",
        (),
        counts,
        lambda _: rows,
    )


def _config(settings: TuneSettings, tokenizer: Any) -> Any:
    if settings.method is TuneMethod.SCRATCH:
        assert settings.config is not None
        return new_config(settings.config, tokenizer)
    return config_of(settings.base)


def encoder_of(settings: TuneSettings, tokenizer: Any) -> ExampleEncoder:
    """Return what writes examples as a model reads them. Raises UsageError or ResourceError."""
    template = _template(settings, tokenizer)
    bos, eos = (getattr(tokenizer, name) or "" for name in ("bos_token", "eos_token"))
    chat = ChatText(template, model=settings.base.name, bos=bos, eos=eos) if template else None
    adds_begin = tokenizer.bos_token_id in tokenizer("a")["input_ids"][:1]
    return ExampleEncoder(
        lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"]),
        chat,
        begin=tokenizer.bos_token_id if adds_begin else None,
        end=tokenizer.eos_token_id,
        ends=frozenset(_ends(settings, tokenizer)),
        specials=frozenset(tokenizer.all_special_ids),
        prompt_weight=settings.prompt_weight,
    )


def _template(settings: TuneSettings, tokenizer: Any) -> str:
    if settings.chat_template is None:
        own = tokenizer.chat_template
        return own if isinstance(own, str) else (own or {}).get("default", "")
    try:
        text = settings.chat_template.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"--chat-template {settings.chat_template} cannot be read: {error}",
            "name a Jinja file in UTF-8",
        ) from error
    tokenizer.chat_template = text
    return text


def _ends(settings: TuneSettings, tokenizer: Any) -> Iterator[int]:
    """Yield the tokens that end an answer: the tokenizer's, and those by which generating ends."""
    if tokenizer.eos_token_id is not None:
        yield tokenizer.eos_token_id
    if settings.method is not TuneMethod.SCRATCH:
        yield from ends_of(settings.base)
