"""`dure quantize`: writes a model with smaller types, chosen for a size, for a speed, or by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dure.cli.terminal.console import output, print_json, print_warning, printable
from dure.cli.terminal.judging import text_of
from dure.cli.terminal.model_argument import resolve_model
from dure.cli.terminal.noted import noted
from dure.cli.terminal.option_groups import expanded
from dure.cli.terminal.parameters import Json, Model
from dure.cli.terminal.quantize_options import (
    Measuring,
    MixtureOptions,
    Target,
    WhereItRuns,
    Writing,
)
from dure.cli.terminal.quantize_report import frontier_table, print_written
from dure.cli.terminal.quantize_run import QuantizeRun
from dure.cli.terminal.quantize_search import Preparation
from dure.convert.quantize.llama_types import LlamaTypes, llama_types
from dure.convert.quantize.search import Search
from dure.convert.quantize.writing import ImportanceFile
from dure.deploy.quantizing import likely_types
from dure.evaluate.frontier_plot import write_frontier
from dure.evaluate.plot import check_plot
from dure.hardware.probe import probe
from dure.model.ggml import GgmlType
from dure.model.gguf import GgufFile, open_gguf

__all__ = ["quantize"]

_LIKELY_BITS = 4.5  # of a weight, for an estimate, if only a speed is asked for


@expanded
def quantize(
    model: Model,
    *,
    target: Target,
    mixture: MixtureOptions,
    where: WhereItRuns,
    measuring: Measuring,
    writing: Writing,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --frontier: draw it, as PNG or SVG.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a model with smaller types: chosen for a size or a speed, or one of llama.cpp's mixtures.

    For a size or a speed, the error that each type makes in each tensor's output is measured first, and
    kept: the next target takes seconds. What was interrupted goes on where it was.

    Example: dure quantize qwen3:4b --target-bpw 3.3 --imatrix qwen3-4b.imatrix.gguf
    """
    target.check()
    if plot:
        check_plot(plot)
    allowed, time_s = measuring.allowed_types(), measuring.time_s()
    file = resolve_model(model)
    path = None if target.frontier else writing.path(file, target)
    with open_gguf(file) as gguf:
        importance = measuring.importance()
        search = Search.here(gguf, importance, allowed, measuring.threads or probe().cores)
        _warn(gguf, importance)
        text = text_of(gguf, measuring.data) if measuring.judges(target) else None
        prepared = Preparation(search, text, time_s, measures=not target.type_)
        named = _mixture(search, target.type_, mixture) if target.type_ else None
        likely = named.types if named else _likely(search, target)
        with noted("quantize", file.name):
            prepared.check(likely, path, knows_size=target.tokens_per_s is None)
            weights = {} if named else prepared.weights()
            judge = prepared.judge()
            options = where.options(file)
            run = QuantizeRun(
                search, target, options, path, weights, judge, likely, verify=writing.verify
            )
            facts = _carried_out(run, target, named)
    if plot and "frontier" in facts:
        _draw(facts["frontier"], plot)
    _print(facts, path, dry_run=writing.dry_run, as_json=as_json)


def _carried_out(run: QuantizeRun, target: Target, named: LlamaTypes | None) -> dict[str, Any]:
    if target.frontier:
        return run.frontier(target.frontier)
    if named:
        return run.mixture(named)
    if target.tokens_per_s:
        return run.for_speed(target.tokens_per_s)
    return run.for_size()


def _likely(search: Search, target: Target) -> Mapping[str, GgmlType]:
    """Return the types that a size or a speed will give, about. Raises UsageError if none is so small."""
    search.check_size(target.tensor_bytes(search.model))
    n = sum(tensor.n_elements for tensor in search.model.tensors.values())
    return likely_types(search, min(target.tensor_bytes(search.model), _LIKELY_BITS * n / 8))


def _mixture(search: Search, name: str, options: MixtureOptions) -> LlamaTypes:
    return llama_types(
        search.model, options.mixture(name), has_importances=search.importance is not None
    )


def _print(facts: Mapping[str, Any], path: Path | None, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json({"dry_run": dry_run, "path": str(path) if path else None, **facts})
        return
    if "frontier" in facts:
        output.print(frontier_table(facts["frontier"]))
        return
    print_written(facts)
    if path:
        output.print(printable(str(path)), soft_wrap=True)


def _draw(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    key = "predicted_tokens_per_s"
    if all(key in point for point in points):
        axis = "predicted tokens/s"
    else:
        key, axis = "bits_per_weight", "bits per weight"
    write_frontier([(point[key], point["error"]) for point in points], axis, path)


def _warn(model: GgufFile, importance: ImportanceFile | None) -> None:
    """Tell what makes the result worse than it could be."""
    quantized = {t.type.name for t in model.tensors.values() if t.type.quantized}
    if quantized:
        print_warning(
            f"the model is quantized already ({', '.join(sorted(quantized))}): what it lost does not "
            "come back; start from F16 or BF16 if you can"
        )
    if importance is None:
        print_warning(
            "without an importance matrix all columns count alike: make one with `dure imatrix`, and "
            "the result is better"
        )
