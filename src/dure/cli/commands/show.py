"""`dure show`: shows what a model is, and how it can be cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.table import Table

from dure.cli.terminal.console import output, print_json, printable
from dure.cli.terminal.model_argument import resolve_model
from dure.cli.terminal.parameters import Json, Model
from dure.cli.terminal.pull_progress import pull_progress
from dure.deploy.gpu import own_gpu, placed_on_gpu, told_of_gpu
from dure.deploy.options import RunOptions, check_sequences
from dure.errors import ModelError
from dure.generate.file_sampling import file_sampling
from dure.hardware.probe import platform
from dure.model.architectures import shape_of
from dure.model.gguf import GgufFile, open_gguf
from dure.model.store import Library, located
from dure.plan.cut_report import CutReport, cut_report
from dure.plan.kernels import slow_bytes
from dure.plan.memory import DEFAULT_CTX, check_ctx, whole_memory
from dure.sizes import bytes_text
from dure.tune.result.card import TuneCard, card_lines, read_card

__all__ = ["show"]

MOST_RANKS = 8


def show(
    model: Model,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="List all tensors: shape, type, bytes.")
    ] = False,
    metadata: Annotated[
        bool, typer.Option("--metadata", help="List the metadata; of arrays, only the length.")
    ] = False,
    ctx: Annotated[
        int | None,
        typer.Option(
            "--ctx",
            "-c",
            help="Context in tokens, of which the memory is shown.",
            show_default="4096, or less if trained for less",
        ),
    ] = None,
    parallel: Annotated[
        int, typer.Option(help="Number of answers at once, each with a context of its own.")
    ] = 1,
    cluster: Annotated[
        bool,
        typer.Option(
            "--cluster",
            help="Show what each machine of the cluster would hold, and whether it fits.",
        ),
    ] = False,
    here: Annotated[
        bool, typer.Option("--here", help="Do not look at the hub for a model that is not here.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show a model: architecture, size, types, context, and its cuts over 1 to 8 ranks.

    Of a model that is not here, the header is read from the hub, and nothing else.

    Example: dure show qwen3:8b --ctx 32768 --parallel 4 --cluster
    """
    options = RunOptions(ctx=ctx, n_sequences=parallel, cluster=cluster)
    with _opened(model, here=here) as gguf:
        facts = _facts(gguf, options)
        if cluster:
            facts["cluster"] = _forecast(gguf, options)
        if tensors:
            facts["tensors"] = _tensors(gguf)
        if metadata:
            facts["metadata"] = _metadata(gguf)
    if as_json:
        print_json(facts)
    else:
        _print(facts)


def _forecast(gguf: GgufFile, options: RunOptions) -> dict[str, Any]:
    """Return what the cluster's machines would hold, as plain data."""
    from dataclasses import asdict

    from dure.cli.terminal.this_cluster import this_cluster
    from dure.deploy.forecast import forecast

    return asdict(forecast(gguf, options, this_cluster()))


@contextmanager
def _opened(model: str, *, here: bool) -> Iterator[GgufFile]:
    """Open a model that is here, or else its header at the hub unless it must be here."""
    found = resolve_model(model) if here else located(model, Library())
    if isinstance(found, Path):
        with open_gguf(found) as gguf:
            yield gguf
        return
    from dure.model.store.remote import opened_remote

    with pull_progress() as watch:
        watch.note(
            f"{model} is not on this machine: reading its header, `dure pull {model}` brings it"
        )
        with opened_remote(found, watch) as gguf:
            yield gguf


def _facts(gguf: GgufFile, options: RunOptions) -> dict[str, Any]:
    features, n = platform({}, lambda _: "").features, options.n_sequences
    n_ctx = _checked_ctx(gguf, options)
    cuts = (
        cut_report(gguf, [1.0] * ranks, features, n_ctx=n_ctx, n_sequences=n)
        for ranks in range(1, MOST_RANKS + 1)
    )
    return {
        "files": [str(path) for path in gguf.paths],
        "name": gguf.str("general.name", ""),
        "architecture": gguf.architecture,
        "size_bytes": gguf.size_bytes,
        "parameters": sum(t.n_elements for t in gguf.tensors.values()),
        "shape": _shape(gguf),
        "types": _types(gguf),
        "sampling": file_sampling(gguf),
        "tuning": _tuning(gguf),
        "slower_here": slow_bytes(gguf.tensors.values(), features),
        "ctx": n_ctx,
        "parallel": n,
        "cuts": [_cut(report) for report in cuts],
        **({} if options.cluster else _on_gpu(gguf, options, n_ctx)),
    }


def _tuning(gguf: GgufFile) -> dict[str, Any] | None:
    """Return what the model was tuned with, None if its file does not say."""
    card = read_card(gguf)
    return None if card is None else msgspec.to_builtins(card)


def _on_gpu(gguf: GgufFile, options: RunOptions, n_ctx: int) -> dict[str, Any]:
    """Return what would lie on this machine's GPU; nothing if llama.cpp sees none, or no layer fits."""
    placed = placed_on_gpu(own_gpu(options), gguf, options, whole_memory(gguf)[0], n_ctx)
    if placed is None:
        return {}
    gpu = placed.gpu
    facts = {"name": gpu.name, "description": gpu.description, "free_bytes": gpu.free_bytes}
    layers = {"layers": placed.n, "of_layers": placed.n_all, "needed_bytes": placed.needed_bytes}
    return {"gpu": {**facts, **layers, "text": told_of_gpu(placed)}}


def _checked_ctx(gguf: GgufFile, options: RunOptions) -> int:
    """Return the context whose memory is shown. Raises UsageError if the model cannot have it."""
    trained = gguf.int(f"{gguf.architecture}.context_length", DEFAULT_CTX)
    check_ctx(options.ctx, trained)
    check_sequences(options.n_sequences)
    return options.ctx or min(DEFAULT_CTX, trained)


def _shape(gguf: GgufFile) -> dict[str, int]:
    """Return the sizes; none if the architecture is unknown, as its header may lack some."""
    try:
        shape = shape_of(gguf)
    except ModelError:
        return {}
    return {
        "context_length": shape.context_length,
        "layers": shape.n_layer,
        "embedding": shape.n_embd,
        "query_heads": shape.n_head,
        "kv_heads": shape.n_head_kv,
        "head_length": shape.key_length,
        "feed_forward": shape.n_ff,
        "vocabulary": shape.n_vocab,
        **(
            {"experts": shape.n_expert, "experts_used": shape.n_expert_used}
            if shape.n_expert
            else {}
        ),
    }


def _types(gguf: GgufFile) -> dict[str, dict[str, int]]:
    types: dict[str, dict[str, int]] = {}
    for tensor in gguf.tensors.values():
        entry = types.setdefault(tensor.type.name, {"tensors": 0, "bytes": 0})
        entry["tensors"] += 1
        entry["bytes"] += tensor.size_bytes
    return types


def _cut(report: CutReport) -> dict[str, Any]:
    """Return one number of ranks as plain data: each rank's bytes and what is re-encoded, or why not."""
    if report.problem:
        return {"ranks": report.n_ranks, "possible": False, "reason": report.problem}
    memory = [rank.memory_bytes for rank in report.ranks if rank.memory_bytes is not None]
    return {
        "ranks": report.n_ranks,
        "possible": True,
        "bytes": [rank.weights_bytes for rank in report.ranks],
        **({"memory_bytes": memory} if memory else {}),
        "reencoded": {one.tensor: {"from": one.old, "to": one.new} for one in report.reencoded},
        **({"reencoded_extra_bytes": report.reencoded_bytes} if report.n_ranks > 1 else {}),
    }


def _tensors(gguf: GgufFile) -> list[dict[str, Any]]:
    return [
        {"name": t.name, "shape": list(t.shape), "type": t.type.name, "bytes": t.size_bytes}
        for t in gguf.tensors.values()
    ]


def _metadata(gguf: GgufFile) -> dict[str, Any]:
    return {
        key: f"[{value.count} values]" if value.kind.name == "ARRAY" else value.value
        for key, value in gguf.metadata.items()
    }


# ---------------------------------------------------------------- as text


def _print(facts: dict[str, Any]) -> None:
    shape = facts["shape"]
    lines = {
        "name": facts["name"] or "(none)",
        "architecture": facts["architecture"],
        "size": f"{bytes_text(facts['size_bytes'])} in {len(facts['files'])} file(s), "
        f"{facts['parameters'] / 1e6:,.1f} million parameters",
        "types": ", ".join(
            f"{name} {entry['tensors']} ({bytes_text(entry['bytes'])})"
            for name, entry in facts["types"].items()
        ),
        "slower here": ", ".join(
            f"{name} ({bytes_text(size)}) has no fast kernels on this processor"
            for name, size in facts["slower_here"].items()
        )
        or "nothing: all matrices have fast kernels on this processor",
        "context": f"{shape['context_length']} tokens" if shape else "(not in the header)",
        "sampling": ", ".join(f"{k.replace('_', ' ')} {n:g}" for k, n in facts["sampling"].items())
        or "(not in the file)",
        **_tuning_lines(facts["tuning"]),
        "shape": ", ".join(f"{k.replace('_', ' ')} {n}" for k, n in list(shape.items())[1:]),
    }
    for name, text in lines.items():
        output.print(f"{name:<14}{printable(text)}", soft_wrap=True)
    output.print()
    output.print(_cuts_table(facts["cuts"]))
    n, ctx = facts["parallel"], facts["ctx"]
    contexts = f"{n} contexts of {ctx} tokens each" if n > 1 else f"a context of {ctx} tokens"
    output.print(f"\nMemory is what a rank's process takes here with {contexts}.")
    if "gpu" in facts:
        output.print(f"On the GPU: {printable(facts['gpu']['text'])}.", soft_wrap=True)
    if "cluster" in facts:
        from dure.cli.terminal.forecast_table import print_forecast

        print_forecast(facts["cluster"])
    _print_lists(facts)


def _tuning_lines(tuning: dict[str, Any] | None) -> dict[str, str]:
    if tuning is None:
        return {}
    return dict(card_lines(msgspec.convert(tuning, TuneCard)))


def _cuts_table(cuts: list[dict[str, Any]]) -> Table:
    table = Table("ranks", "weights of each", "memory of each", "note", box=None, pad_edge=False)
    for cut in cuts:
        if cut["possible"]:
            memory = cut.get("memory_bytes")
            sizes = _sizes(cut["bytes"]), _sizes(memory) if memory else "not known"
            table.add_row(str(cut["ranks"]), *sizes, _note(cut))
        else:
            table.add_row(str(cut["ranks"]), "cannot be cut", "", printable(cut["reason"]))
    return table


def _sizes(sizes: list[int]) -> str:
    low, high = bytes_text(min(sizes)), bytes_text(max(sizes))
    return low if low == high else f"{low} to {high}"


def _note(cut: dict[str, Any]) -> str:
    if not cut["reencoded"]:
        return ""
    kinds = {
        (_family(name), change["from"], change["to"]) for name, change in cut["reencoded"].items()
    }
    text = ", ".join(f"{name} {old} to {new}" for name, old, new in sorted(kinds))
    extra = cut["reencoded_extra_bytes"]
    sign = "+" if extra >= 0 else "-"
    return f"re-encodes {len(cut['reencoded'])} tensors: {text} ({sign}{bytes_text(abs(extra))})"


def _family(tensor_name: str) -> str:
    return tensor_name.split(".", 2)[-1].removesuffix(".weight")


def _print_lists(facts: dict[str, Any]) -> None:
    for tensor in facts.get("tensors", []):
        shape = " x ".join(str(n) for n in tensor["shape"])
        output.print(
            f"{printable(tensor['name']):<36}{shape:<24}{tensor['type']:<8}"
            f"{bytes_text(tensor['bytes'])}",
            soft_wrap=True,
        )
    for key, value in facts.get("metadata", {}).items():
        text = str(value) if len(str(value)) <= 200 else f"{str(value)[:200]}…"
        output.print(f"{printable(key):<44}{text!r}", soft_wrap=True)
