"""`dure import`: makes a GGUF of a model in another format."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dure.cli.terminal.console import errors, output, print_json, printable, progress_bar
from dure.cli.terminal.model_argument import resolve_model
from dure.cli.terminal.noted import noted
from dure.cli.terminal.option_groups import expanded
from dure.cli.terminal.out_file import check_not_there, check_room
from dure.cli.terminal.parameters import Json
from dure.errors import UsageError
from dure.model.store import Library
from dure.sizes import bytes_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dure.convert.model import ConvertedModel
    from dure.convert.sources import Asked

__all__ = ["import_model"]


class ImportType(StrEnum):
    """The types that matrices can be imported in."""

    AUTO = "auto"
    BF16 = "bf16"
    F16 = "f16"
    F32 = "f32"
    Q8_0 = "q8_0"


@dataclass(frozen=True)
class Conversion:
    """How a source becomes a model."""

    type_: Annotated[
        ImportType,
        typer.Option(
            "--type",
            help="Type of the matrices; auto keeps what the source has. Norms are always F32.",
        ),
    ] = ImportType.AUTO
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            "--tokenizer",
            metavar="FILE",
            help="Tokenizer (.t) of a model of Distributed Llama.",
            show_default="the one beside it",
        ),
    ] = None
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="MODEL",
            help="Model that an adapter belongs to: a GGUF file, a name, or what `dure import` takes.",
            show_default=False,
        ),
    ] = None
    merge: Annotated[
        bool, typer.Option("--merge", help="Write the model of --base with the adapter in it.")
    ] = False

    def asked(self) -> Asked:
        """Return what a source is asked for. Raises as `resolve_model` does."""
        from dure.convert.sources import Asked
        from dure.model.ggml import type_named

        wanted = None if self.type_ is ImportType.AUTO else type_named(self.type_.value)
        return Asked(wanted, self.tokenizer, _base_path(self.base), self.merge)


@expanded
def import_model(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SRC",
            help="Folder of a model or adapter from Hugging Face, or a model of Distributed Llama (.m).",
            show_default=False,
        ),
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="GGUF file to write, or an existing folder for it.",
            show_default="NAME-TYPE.gguf among the models that `dure ls` lists, or in the adapter folder",
        ),
    ] = None,
    conversion: Conversion,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be written, and write nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a GGUF file of a model in another format, such as a Hugging Face folder.

    Example: dure import ~/Qwen3-0.6B --type q8_0
    Example: dure import ~/my-lora --base qwen3:0.6b --merge
    """
    from dure.convert.model import write_model
    from dure.convert.sources import source_of

    kind, asked = source_of(source), conversion.asked()
    with kind.opened(source, asked) as model:
        facts = _facts(kind.name(source), model)
        beside = source if facts["kind"] == "adapter" else Library().directory
        type_name = asked.type.name if asked.type else facts["type"]
        target = _target(out, beside / f"{facts['name']}-{type_name}.gguf")
        facts |= {"path": str(target), "dry_run": dry_run}
        if dry_run:
            _check(target, facts["size_bytes"], force=force)
        else:
            with _alone(target):
                _check(target, facts["size_bytes"], force=force)
                _say(facts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with (
                    noted("import", facts["name"]),
                    progress_bar(f"importing {facts['name']}", facts["size_bytes"]) as advance,
                ):
                    write_model(model, target, advance)
    if as_json:
        print_json(facts)
    elif dry_run:
        _say(facts)
    else:
        output.print(printable(str(target)), soft_wrap=True)


def _facts(name: str, model: ConvertedModel) -> dict[str, Any]:
    sizes: Counter[str] = Counter()
    for one in model.tensors:
        sizes[one.spec.type.name] += one.spec.size_bytes
    return {
        "name": name,
        "kind": model.value("general.type") or "model",
        "architecture": model.value("general.architecture"),
        "type": max(sizes, key=sizes.__getitem__),
        "bytes_by_type": dict(sizes),
        "tensors": len(model.tensors),
        "parameters": sum(one.spec.n_elements for one in model.tensors),
        "size_bytes": model.size_bytes,
        "notes": list(model.notes),
    }


def _base_path(text: str | None) -> Path | None:
    if text is None:
        return None
    path = Path(text).expanduser()
    return path if path.exists() else resolve_model(text)


def _target(out: Path | None, usual: Path) -> Path:
    if out is None:
        return usual
    if out.suffix != ".gguf" and not out.is_dir():
        raise UsageError(
            f"--out {printable(str(out))} is neither an existing folder nor ends in .gguf",
            f"write --out {printable(str(out))}.gguf, or make the folder",
        )
    return out / usual.name if out.is_dir() else out


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Let one import at a time write a file."""
    waits = f"waiting for another import to {printable(str(target))}"
    with Library().locked(str(target.absolute()), lambda: errors.print(waits, markup=False)):
        yield


def _check(target: Path, size_bytes: int, *, force: bool) -> None:
    """Check that a file is not there yet, and has room. Raises UsageError or ResourceError."""
    check_not_there(target, force=force)
    check_room(target, size_bytes)


def _say(facts: dict[str, Any]) -> None:
    errors.print(
        f"{printable(facts['name'])} ({facts['architecture']}, {facts['parameters'] / 1e6:,.0f} million "
        f"parameters): {facts['tensors']} tensors, {bytes_text(facts['size_bytes'])} in "
        f"{', '.join(facts['bytes_by_type'])}, to {printable(facts['path'])}",
        markup=False,
        soft_wrap=True,
    )
    for note in facts["notes"]:
        errors.print(printable(note), markup=False, soft_wrap=True)
