"""`dure show`: what a model is, and how it can be cut."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from dure.cli.terminal.console import bytes_text, output, print_json, printable
from dure.cli.terminal.model_argument import resolve_model
from dure.cli.terminal.parameters import Json, Model
from dure.deploy.local import rank_memory
from dure.errors import DureError, ModelError
from dure.hardware.probe import platform
from dure.model.architecture import Shape, shape_of
from dure.model.cut import plan_cut
from dure.model.gguf import GgufFile, open_gguf
from dure.model.shard import plan_shards
from dure.places import shard_directory
from dure.plan.kernels import is_quick
from dure.plan.memory import DEFAULT_CTX, RankMemory, kv_bytes_per_token

__all__ = ["show"]

MOST_RANKS = 8


def show(
    model: Model,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="List every tensor: shape, type, bytes.")
    ] = False,
    metadata: Annotated[
        bool, typer.Option("--metadata", help="List the metadata; long lists by their length.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show a model: architecture, size, types, context, and its cuts over 1 to 8 ranks.

    Example: dure show models/dure-demo.gguf
    """
    with open_gguf(resolve_model(model)) as gguf:
        facts = _facts(gguf)
        if tensors:
            facts["tensors"] = _tensors(gguf)
        if metadata:
            facts["metadata"] = _metadata(gguf)
    if as_json:
        print_json(facts)
    else:
        _print(facts)


def _facts(gguf: GgufFile) -> dict[str, Any]:
    return {
        "files": [str(path) for path in gguf.paths],
        "name": gguf.str("general.name", ""),
        "architecture": gguf.architecture,
        "size_bytes": gguf.size_bytes,
        "parameters": sum(t.n_elements for t in gguf.tensors.values()),
        "shape": _shape(gguf),
        "types": _types(gguf),
        "slower_here": _slower_here(gguf),
        "cuts": [_cut(gguf, n) for n in range(1, MOST_RANKS + 1)],
    }


def _slower_here(gguf: GgufFile) -> dict[str, int]:
    """By type, the bytes of matrices that this processor has no quick kernels for."""
    features = platform({}, lambda _: "").features
    found: dict[str, int] = {}
    for tensor in gguf.tensors.values():
        is_matrix = len(tensor.shape) > 1 and not tensor.name.startswith("token_embd")
        if is_matrix and not is_quick(tensor.type.name, tensor.shape[1], features):
            found[tensor.type.name] = found.get(tensor.type.name, 0) + tensor.size_bytes
    return found


def _shape(gguf: GgufFile) -> dict[str, int]:
    """The sizes, as far as the header says them: a model of an unknown kind may not have them all."""
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


def _cut(gguf: GgufFile, n_ranks: int) -> dict[str, Any]:
    """Whether the model runs on so many ranks; each one's bytes, what is re-encoded, or why not."""
    if n_ranks == 1:
        whole = sum(t.size_bytes for t in gguf.tensors.values())
        cut = {"ranks": 1, "possible": True, "bytes": [whole], "reencoded": {}}
        memory = _memory(gguf, whole)
        return {**cut, "memory_bytes": [memory]} if memory else cut
    try:
        plan = plan_cut(gguf, [1.0] * n_ranks)
        shards = plan_shards(gguf, plan, shard_directory())
    except DureError as error:
        return {"ranks": n_ranks, "possible": False, "reason": str(error)}
    reencoded = {
        name: {"from": gguf.tensors[name].type.name, "to": type_.name}
        for name, type_ in plan.reencoded.items()
    }
    more = sum(
        plan.size_bytes(gguf.tensors[name], rank)
        for name in plan.reencoded
        for rank in range(n_ranks)
    ) - sum(gguf.tensors[name].size_bytes for name in plan.reencoded)
    return {
        "ranks": n_ranks,
        "possible": True,
        "bytes": [shard.weights_bytes for shard in shards],
        "memory_bytes": [
            rank_memory(plan, shard).total_bytes(_shown_ctx(plan.shape)) for shard in shards
        ],
        "reencoded": reencoded,
        "reencoded_extra_bytes": more,
    }


def _memory(gguf: GgufFile, weights_bytes: int) -> int:
    """What the whole model takes on one machine; 0 where the header does not say enough."""
    try:
        shape = shape_of(gguf)
    except ModelError:
        return 0
    whole = RankMemory(weights_bytes, kv_bytes_per_token(shape, shape.n_head_kv))
    return whole.total_bytes(_shown_ctx(shape))


def _shown_ctx(shape: Shape) -> int:
    return min(DEFAULT_CTX, shape.context_length)


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
            f"{name} ({bytes_text(size)}) has no quick kernels on this processor"
            for name, size in facts["slower_here"].items()
        )
        or "nothing: all matrices have quick kernels on this processor",
        "context": f"{shape['context_length']} tokens" if shape else "(not in the header)",
        "shape": ", ".join(f"{k.replace('_', ' ')} {n}" for k, n in list(shape.items())[1:]),
    }
    for name, text in lines.items():
        output.print(f"{name:<14}{printable(text)}", soft_wrap=True)
    output.print()
    output.print(_cuts_table(facts["cuts"]))
    context = min(DEFAULT_CTX, shape.get("context_length", DEFAULT_CTX))
    output.print(f"\nMemory is that of a rank's process with a context of {context} tokens.")
    _print_lists(facts)


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
