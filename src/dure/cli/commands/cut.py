"""`dure cut`: writes the shards of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dure.cli.terminal.console import errors, output, print_json, progress_bar
from dure.cli.terminal.model_argument import resolve_model
from dure.cli.terminal.noted import noted
from dure.cli.terminal.parameters import Json, Model, Ranks, Shares
from dure.deploy.options import parse_shares
from dure.errors import UsageError
from dure.model.architectures import Along
from dure.model.cut import CutPlan, plan_cut
from dure.model.gguf import GgufFile, open_gguf
from dure.model.shard import Shard, cut_model, is_finished, plan_shards
from dure.sizes import bytes_text

__all__ = ["cut"]


def cut(
    model: Model,
    ranks: Ranks = None,
    shares: Shares = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Directory for the shards; created if missing.")
    ] = Path("shards"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be written, and write nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Cut a model into one GGUF per rank. Finished shards are verified and reused.

    Example: dure cut models/dure-demo.gguf --ranks 3 --shares 2,1,1 --out shards
    """
    wanted = parse_shares(shares, ranks)
    if len(wanted) < 2:
        raise UsageError("one rank needs no cut", "give --ranks 2 or more, or --shares as in 3,2")
    file = resolve_model(model)
    with open_gguf(file) as gguf:
        plan = plan_cut(gguf, wanted)
        shards = plan_shards(gguf, plan, out)
        if dry_run:
            written = [shard for shard in shards if not is_finished(shard)]
        else:
            with (
                noted("cut", file.name),
                progress_bar(f"cutting {file.name}", gguf.size_bytes) as progress,
            ):
                written = cut_model(gguf, shards, verify=True, progress=progress)
        facts = _facts(gguf, plan, shards, written)
    if as_json:
        print_json({"dry_run": dry_run, **facts})
    else:
        _print(facts, dry_run=dry_run)


def _facts(
    gguf: GgufFile, plan: CutPlan, shards: list[Shard], written: list[Shard]
) -> dict[str, Any]:
    return {
        "shards": [
            {
                "rank": shard.rank,
                "path": str(shard.path),
                "weights_bytes": shard.weights_bytes,
                "query_heads": len(plan.ranks[shard.rank][Along.HEADS]),
                "feed_forward": len(plan.ranks[shard.rank][Along.FFN]),
                "vocabulary": len(plan.ranks[shard.rank][Along.VOCABULARY]),
                "reused": shard not in written,
            }
            for shard in shards
        ],
        "reencoded": {
            name: {"from": gguf.tensors[name].type.name, "to": type_.name}
            for name, type_ in plan.reencoded.items()
        },
    }


def _print(facts: dict[str, Any], *, dry_run: bool) -> None:
    done = "would be written" if dry_run else "written"
    for shard in facts["shards"]:
        state = "finished, reused" if shard["reused"] else done
        output.print(
            f"rank {shard['rank']}  {bytes_text(shard['weights_bytes']):>9}  "
            f"{shard['query_heads']} query heads, {shard['feed_forward']} feed-forward columns, "
            f"{shard['vocabulary']} vocabulary rows  {state}: {shard['path']}",
            markup=False,
            soft_wrap=True,
        )
    for name, change in facts["reencoded"].items():
        errors.print(f"{name} is re-encoded from {change['from']} to {change['to']}", markup=False)
