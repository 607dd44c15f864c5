"""Shows what `dure quantize` chose and wrote: types by group, sizes, speeds, the frontier."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from dure.cli.terminal.console import output, printable
from dure.convert.quantize.choosing import TypeChoice, group_of
from dure.convert.quantize.writing import Quantized
from dure.evaluate.card import agreement_text
from dure.evaluate.statistics import Estimate
from dure.model.architectures import shape_of
from dure.model.gguf import GgufFile
from dure.sizes import bytes_text

__all__ = ["frontier_table", "point_facts", "print_written", "quantized_facts"]


def _kinds_of(model: GgufFile, types: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """Return how many tensors of each group have each type, of those that have more than one dimension."""
    n_layer = shape_of(model).n_layer
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for name, type_name in types.items():
        if len(model.tensors[name].shape) > 1:
            found[group_of(name, n_layer)][type_name] += 1
    return {group: dict(counts.most_common()) for group, counts in sorted(found.items())}


def quantized_facts(wanted: Quantized, types: Mapping[str, str]) -> dict[str, Any]:
    """Return a choice as plain data. types: of all tensors, by name."""
    n = sum(tensor.n_elements for tensor in wanted.model.tensors.values())
    return {
        "size_bytes": wanted.size_bytes,
        "bits_per_weight": round(8 * wanted.size_bytes / n, 4),
        "types": dict(types),
        "groups": _kinds_of(wanted.model, types),
    }


def point_facts(choice: TypeChoice) -> dict[str, Any]:
    """Return a point of a frontier as plain data."""
    return {
        "bits_per_weight": choice.bits_per_weight,
        "size_bytes": choice.size_bytes,
        "error": choice.error,
        "types": choice.counted,
    }


def _groups_table(groups: Mapping[str, Mapping[str, int]]) -> Table:
    """Return a table of groups of tensors and their types."""
    table = Table("tensors", "types", box=None)
    for group, counts in groups.items():
        texts = (f"{name} x {n}" if n > 1 else name for name, n in counts.items())
        table.add_row(printable(group), ", ".join(texts))
    return table


def frontier_table(points: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of the best choice at each size."""
    has_speed = any("predicted_tokens_per_s" in point for point in points)
    table = Table("bits/weight", "size", "error", "types", box=None)
    if has_speed:
        table.add_column("predicted tok/s")
    for point in points:
        types = ", ".join(f"{name} x {n}" for name, n in point["types"].items())
        row = [f"{point['bits_per_weight']:.2f}", bytes_text(point["size_bytes"])]
        row += [f"{point['error']:.5f}", types]
        if has_speed:
            row.append(f"{point['predicted_tokens_per_s']:.1f}")
        table.add_row(*row)
    return table


def print_written(facts: Mapping[str, Any]) -> None:
    """Print what was written, for a person."""
    output.print(_groups_table(facts["groups"]))
    size = f"{facts['bits_per_weight']:.2f} bits a weight, {bytes_text(facts['size_bytes'])}"
    output.print(size, soft_wrap=True)
    speeds = [
        f"{how} {facts[key]:.1f} tok/s"
        for how in ("predicted", "measured")
        if (key := f"{how}_tokens_per_s") in facts
    ]
    if speeds:
        output.print(", ".join(speeds), soft_wrap=True)
    if found := facts.get("kl_divergence"):
        far = f"KL divergence {found['mean']:.4f} ({found['low']:.4f} to {found['high']:.4f})"
        if "error" in facts:
            far += f", {facts['error']:.4f} expected"
        same = agreement_text(Estimate(**facts["agreement"]))
        output.print(f"{far}; {same}", soft_wrap=True)
