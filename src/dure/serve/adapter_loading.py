"""Loads and unloads adapters (LoRA) for clients, while the model runs.

Knows which files a client may name: those of one directory, which the server's owner chose. Refuses to
know HTTP, and how ranks load them.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from dure.errors import CutError, ModelError, ParameterError
from dure.http.problems import ForbiddenError, NotFoundError
from dure.serve.served_model import ServedModel

__all__ = ["AdapterLoading"]

MOST_LOADED = 64


class AdapterLoading:
    """Changes the adapters of a served model. directory: where their files are; None: nobody may."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._one_by_one = asyncio.Lock()

    async def load(
        self, model: ServedModel, name: str, file: str, *, in_place: bool = False
    ) -> int:
        """Load a file under a name; return its number. It goes on if the client hangs up.

        in_place: the adapter that has the name goes, once the new one is there.
        Raises ParameterError if file or name cannot be taken, and what the engine raises.
        """
        path = self._path(file)
        return await asyncio.shield(asyncio.ensure_future(self._load(model, name, path, in_place)))

    async def unload(self, model: ServedModel, name: str) -> None:
        """Serve the adapter of a name no more; its memory is free once no request uses it.

        Raises NotFoundError.
        """
        if self._directory is None:
            raise _forbidden()
        await asyncio.shield(asyncio.ensure_future(self._unload(model, name)))

    async def _load(self, model: ServedModel, name: str, path: Path, in_place: bool) -> int:
        async with self._one_by_one:
            _check_name(model, name)
            before = model.adapters.number_of(name)
            if before is not None and not in_place:
                raise ParameterError(
                    "lora_name",
                    f"lora_name: there is an adapter {name} already",
                    "unload it first, or set load_inplace",
                )
            if len(model.adapters.scales()) >= MOST_LOADED:
                raise ParameterError(
                    "lora_name", f"{MOST_LOADED} adapters are loaded already", "unload one first"
                )
            try:
                number = await model.engine.adapters.load(str(path))
            except (ModelError, CutError) as error:
                raise ParameterError("lora_path", error.problem, error.cure) from error
            if before is not None:
                model.adapters.remove(
                    before
                )  # the name means the new one, while the old one still answers
            model.adapters.add(number, str(path), name)
            if before is not None:
                await model.engine.adapters.drop(before)
            return number

    async def _unload(self, model: ServedModel, name: str) -> None:
        async with self._one_by_one:
            number = model.adapters.number_of(name)
            if number is None:
                raise NotFoundError(
                    f"lora_name: there is no adapter {name}", "GET /v1/models lists them"
                )
            await model.engine.adapters.drop(number)
            model.adapters.remove(number)

    def _path(self, file: str) -> Path:
        """Return the file that a client names. Raises ParameterError if it is not in the directory."""
        if self._directory is None:
            raise _forbidden()
        root = self._directory.resolve()
        try:
            path = (root / file).resolve()
            is_file = path.is_relative_to(root) and path.is_file()
        except (OSError, ValueError, RuntimeError):  # too long, a zero byte, a circle of links
            is_file = False
        if not is_file:
            raise ParameterError(
                "lora_path",
                f"lora_path: {file} is no file in the server's directory of adapters",
                "give the name of a GGUF file there; `dure import` makes one of a PEFT folder",
            )
        return path


def _check_name(model: ServedModel, name: str) -> None:
    if name in {model.name, *model.aliases} or ":" in name:
        raise ParameterError(
            "lora_name", f"lora_name: {name} names the model", "give the adapter another name"
        )


def _forbidden() -> ForbiddenError:
    return ForbiddenError(
        "this server loads no adapters while it runs", "start it with --lora-dir DIR"
    )
