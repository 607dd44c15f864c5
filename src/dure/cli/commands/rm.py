"""`dure rm`: deletes models, with the shards that were cut from them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dure.cli.terminal.completion import removable
from dure.cli.terminal.console import errors, output, print_json, printable
from dure.cli.terminal.parameters import Json
from dure.errors import ResourceError, UsageError
from dure.model.shard import delete_shard, shards_cut_from
from dure.model.store import Library, StoredModel
from dure.places import shard_directory
from dure.sizes import bytes_text

__all__ = ["rm"]


def rm(
    names: Annotated[
        list[str],
        typer.Argument(
            help="Models, as `dure ls` lists them.", autocompletion=removable, show_default=False
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Delete models from this machine, and the shards cut from them.

    Example: dure rm qwen3:0.6b --yes
    """
    library = Library()
    models = {model.path: model for model in (_found(library, name) for name in names)}
    removed = []
    for model in models.values():
        shards = shards_cut_from(model.path, shard_directory())
        if not (yes or _agreed(model, shards)):
            continue
        _remove(library, model, shards)
        removed.append(
            {
                "name": model.name,
                "size_bytes": model.size_bytes,
                "shards": [str(shard) for shard in shards],
            }
        )
        if not as_json:
            output.print(f"deleted {printable(model.name)}", soft_wrap=True)
    if as_json:
        print_json(removed)


def _found(library: Library, name: str) -> StoredModel:
    model = library.find(name, unfinished=True)
    if model is None:
        raise UsageError(f"{name} is not among the models of this machine", "`dure ls` shows them")
    return model


def _agreed(model: StoredModel, shards: list[Path]) -> bool:
    if not sys.stdin.isatty():
        raise UsageError(f"deleting {model.name} needs a yes", "say --yes")
    also = f" and {len(shards)} shards cut from it" if shards else ""
    return typer.confirm(
        f"Delete {printable(model.name)}, {bytes_text(model.size_bytes)}{also}?", err=True
    )


def _remove(library: Library, model: StoredModel, shards: list[Path]) -> None:
    shared = any(
        path.is_symlink() or path.stat().st_nlink > 1 for path in model.paths if path.exists()
    )
    try:
        library.remove(model)
        for shard in shards:
            delete_shard(shard)
    except OSError as error:
        raise ResourceError(
            f"cannot delete {error.filename or model.path}: {error.strerror}"
        ) from error
    if shared:
        errors.print("the Hugging Face cache still has its bytes", markup=False)
