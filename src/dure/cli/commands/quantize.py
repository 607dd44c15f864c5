"""`dure quantize`: writes a model with smaller types, chosen for a size, for a speed, or by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from dure.cli.terminal.console import (
    errors,
    loading_bar,
    output,
    print_json,
    print_warning,
    printable,
    progress_bar,
)
from dure.cli.terminal.judging import text_of
from dure.cli.terminal.model_argument import resolve_model
from dure.cli.terminal.option_groups import expanded
from dure.cli.terminal.parameters import Json, Model
from dure.cli.terminal.quantize_options import (
    Frontier,
    Measuring,
    MixtureOptions,
    Target,
    WhereItRuns,
    Writing,
)
from dure.cli.terminal.quantize_report import (
    frontier_table,
    point_facts,
    print_written,
    quantized_facts,
)
from dure.cli.terminal.quantize_search import Preparation
from dure.cli.terminal.running_model import TerminalReporter, running_model
from dure.convert.quantize.choosing import TypeChoice
from dure.convert.quantize.llama_types import LlamaTypes, file_types, llama_types, mixture_named
from dure.convert.quantize.search import Search
from dure.convert.quantize.writing import (
    ImportanceFile,
    Quantized,
    file_type_of,
    write_quantized,
)
from dure.deploy.catalogue_machines import machines_of_catalogue
from dure.deploy.options import RunOptions
from dure.deploy.quantizing import (
    ForSpeed,
    choose_for_size,
    likely_types,
    machines_here,
    machines_of_cluster,
    shares_for,
    size_frontier,
)
from dure.engine.instruments.benchmark import BenchRuns, measure
from dure.evaluate.frontier_plot import write_frontier
from dure.evaluate.plot import check_plot
from dure.evaluate.swaps import SwapJudge
from dure.hardware.probe import probe
from dure.model.ggml import GgmlType
from dure.model.gguf import GgufFile, open_gguf

__all__ = ["quantize"]

_FRONTIER_POINTS = 16
_LIKELY_BITS = 4.5  # of a weight, for an estimate, if only a speed is asked for
_ATTEMPTS = 4  # files, until the measured speed is the one that was asked for
_NEAR = 0.03  # of the speed: near enough
_BENCH = BenchRuns(n_prompt=16, n_generate=48, depth=0, repeat=3)


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
        prepared.check(likely, path, knows_size=target.tokens_per_s is None)
        weights = {} if named else prepared.weights()
        judge = prepared.judge()
        run = _Run(search, target, where.options(file), path, weights, judge, verify=writing.verify)
        if target.frontier:
            facts = run.frontier(target.frontier)
        elif named:
            facts = run.mixture(named)
        elif target.tokens_per_s:
            facts = run.for_speed(target.tokens_per_s)
        else:
            facts = run.for_size()
    if plot and "frontier" in facts:
        _draw(facts["frontier"], plot)
    _print(facts, path, dry_run=writing.dry_run, as_json=as_json)


def _likely(search: Search, target: Target) -> Mapping[str, GgmlType]:
    """Return the types that a size or a speed will give, about."""
    n = sum(tensor.n_elements for tensor in search.model.tensors.values())
    return likely_types(search, min(target.tensor_bytes(search.model), _LIKELY_BITS * n / 8))


def _mixture(search: Search, name: str, options: MixtureOptions) -> LlamaTypes:
    return llama_types(
        search.model, options.mixture(name), has_importances=search.importance is not None
    )


class _Run:
    """One run of the command: from a search to what is told of it. weights: see `TypeProblem`."""

    def __init__(
        self,
        search: Search,
        target: Target,
        options: RunOptions,
        path: Path | None,
        weights: Mapping[str, float],
        judge: SwapJudge | None,
        *,
        verify: bool,
    ) -> None:
        self._search, self._target, self._weights = search, target, weights
        self._options, self._path, self._judge, self._verify = options, path, judge, verify

    def frontier(self, of: Frontier) -> dict[str, Any]:
        """Return the least error at each size, or at each speed."""
        if of is Frontier.SIZE:
            model = self._search.model
            shares = self._shares(sum(tensor.size_bytes for tensor in model.tensors.values()))
            points = size_frontier(self._search, self._weights, shares, _FRONTIER_POINTS)
            return {"frontier": [point_facts(choice) for choice in points]}
        wanted = self._for_speed()
        return {
            "frontier": [
                {**point_facts(one), "predicted_tokens_per_s": 1 / wanted.predicted_s(one)}
                for one in wanted.frontier(_FRONTIER_POINTS)
            ]
        }

    def mixture(self, found: LlamaTypes) -> dict[str, Any]:
        """Write one of llama.cpp's mixtures."""
        assert self._target.type_, "the target is a mixture"
        model, importance = self._search.model, self._search.importance
        _tell_of_fallbacks(model, found.fell_back, found.types)
        number = file_types()[mixture_named(self._target.type_)]
        wanted = Quantized(model, found.types, importance, number, {})
        return {**self._written(wanted), **self._measured()}

    def for_size(self) -> dict[str, Any]:
        """Write the choice with the least error within a size."""
        shares = self._shares(self._target.tensor_bytes(self._search.model))
        choice, wanted = self._within(
            lambda n_bytes: choose_for_size(self._search, self._weights, shares, n_bytes)
        )
        return {**self._written(wanted), "error": choice.error, **self._measured()}

    def for_speed(self, tokens_per_s: float) -> dict[str, Any]:
        """Write the choice with the least error at a speed; measure it, and choose again if it is not near.

        What a token takes besides reading weights is not known before the model has run.
        """
        wanted = self._for_speed()
        for attempt in range(_ATTEMPTS):
            choice, quantized = self._within(
                lambda n_bytes: wanted.choose(tokens_per_s, n_bytes),
                lambda one: {
                    **wanted.machines.metadata,
                    "dure.quantize.predicted_tokens_per_s": 1 / wanted.predicted_s(one),
                },
            )
            facts = self._written(quantized) | {"error": choice.error}
            facts |= {"predicted_tokens_per_s": 1 / wanted.predicted_s(choice), **self._measured()}
            measured = facts.get("measured_tokens_per_s")
            if measured is None:
                return facts
            wanted.learn(choice, measured)
            off = measured / tokens_per_s - 1
            is_whole = all(self._search.model.tensors[n].type == t for n, t in choice.types.items())
            if abs(off) <= _NEAR or (off > 0 and is_whole) or attempt + 1 == _ATTEMPTS:
                break
            errors.print(
                f"it generates {measured:.1f} tok/s, and {tokens_per_s:g} are asked: choosing again",
                markup=False,
            )
        return facts

    def _shares(self, size_bytes: float) -> Sequence[float]:
        return shares_for(self._search, size_bytes, self._options, TerminalReporter())

    def _for_speed(self) -> ForSpeed:
        types, reporter = self._search.possible_types, TerminalReporter()
        if self._options.cluster:
            machines = machines_of_cluster(self._search.model, types, self._options, reporter)
        elif self._options.nodes:
            machines = machines_of_catalogue(self._search.model, types, self._options.nodes)
        else:
            machines = machines_here(types, self._options, reporter)
        return ForSpeed(self._search, machines, self._weights)

    def _within(
        self,
        choose: Callable[[float], TypeChoice],
        metadata: Callable[[TypeChoice], Mapping[str, Any]] = lambda _: {},
    ) -> tuple[TypeChoice, Quantized]:
        """Return the choice whose file has the size that was asked for. choose: for the tensors' bytes."""
        n_bytes = self._target.tensor_bytes(self._search.model)
        while True:
            choice = choose(n_bytes)
            wanted = self._quantized(choice, metadata(choice))
            over = wanted.file_bytes - self._target.file_bytes
            if over <= 0:
                return choice, wanted
            n_bytes -= over

    def _quantized(self, choice: TypeChoice, metadata: Mapping[str, Any]) -> Quantized:
        model = self._search.model
        own: dict[str, Any] = {
            "dure.quantize.target": self._target.label,
            "dure.quantize.bits_per_weight": choice.bits_per_weight,
        }
        number = file_type_of(model, choice.types)
        return Quantized(model, choice.types, self._search.importance, number, {**own, **metadata})

    def _written(self, wanted: Quantized) -> dict[str, Any]:
        """Write the file, and return what stands in it; if nothing is written, what would."""
        if self._path is None:
            tensors = wanted.model.tensors.items()
            types = {name: wanted.types.get(name, tensor.type).name for name, tensor in tensors}
            return quantized_facts(wanted, types)
        with progress_bar(f"writing {self._path.name}", wanted.size_bytes) as progress:
            kept = self._search.kept(wanted.file_bytes)
            types = write_quantized(wanted, self._path, kept, self._search.threads, progress)
        return quantized_facts(wanted, types)

    def _measured(self) -> dict[str, Any]:
        """Run what was written; return its speed, and how far it is from the original on the text."""
        is_elsewhere = self._options.nodes is not None and not self._options.cluster
        if self._path is None or not self._verify or is_elsewhere:
            return {}
        options = msgspec.structs.replace(self._options, ctx=_BENCH.n_tokens)
        with (
            running_model(self._path, options) as (_, executor),
            loading_bar(f"measuring {self._path.name}") as progress,
        ):
            result = measure(executor, _BENCH, progress)
        facts: dict[str, Any] = {"measured_tokens_per_s": result.generation.tokens_per_s.median}
        if self._judge:
            self._judge.read_original()
            found = self._judge.divergence(self._path)
            mean = found.mean
            facts["kl_divergence"] = {"mean": mean.value, "low": mean.low, "high": mean.high}
            facts["agreement"] = found.agreement.value
        return facts


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


def _tell_of_fallbacks(
    model: GgufFile, fell_back: Mapping[str, str], types: Mapping[str, GgmlType]
) -> None:
    """Tell which tensors have rows that a type's blocks do not fit."""
    told: Counter[str] = Counter()
    for name, wanted in fell_back.items():
        tensor = model.tensors[name]
        got = types.get(name, tensor.type).name
        told[f"rows of {tensor.shape[0]} weights cannot be {wanted}, and are {got}"] += 1
    for text, n in told.items():
        errors.print(f"{n} tensors: {text}", markup=False)
