"""All tensors of a model that is stored in one safetensors file or several.

Knows how the files are named and listed. Refuses to know what the tensors are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from dure.convert.huggingface.json_file import read_json
from dure.convert.huggingface.safetensors_file import SafetensorsFile, StoredTensor
from dure.errors import ModelError
from dure.model.gguf.values import one_line

__all__ = ["Checkpoint"]

_INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


class Checkpoint:
    """The tensors of a folder, by name. Raises ModelError if files are missing or damaged."""

    def __init__(self, folder: Path) -> None:
        self._open = ExitStack()
        self.tensors: dict[str, StoredTensor] = {}
        try:
            listed = _listed(folder)
            for name in sorted(set(listed.values())) or _found(folder):
                self._add(SafetensorsFile(folder / name))
            for name, file in listed.items():
                if name not in self.tensors:
                    raise ModelError(
                        f"{_INDEX} puts {one_line(name)} into {one_line(file)}, where it is not",
                        "get both again",
                    )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close all files. May be called twice."""
        self._open.close()

    def _add(self, file: SafetensorsFile) -> None:
        self._open.callback(file.close)
        for name, tensor in file.tensors.items():
            if name in self.tensors:
                raise ModelError(
                    f"tensor {one_line(name)} is in {self.tensors[name].file.path.name} and in "
                    f"{file.path.name}",
                    "leave only the files of one model in the folder",
                )
            self.tensors[name] = tensor


def _listed(folder: Path) -> dict[str, str]:
    """Return the file of each tensor, if the folder has an index."""
    index = read_json(folder / _INDEX)
    files = index.get("weight_map", {})
    if not isinstance(files, dict) or (index and not files):
        raise ModelError(f"{_INDEX} has no weight_map", "get it again")
    for name, file in files.items():
        if (
            not isinstance(file, str)
            or Path(file).name != file
            or not file.endswith(".safetensors")
        ):
            raise ModelError(
                f"{_INDEX} puts {one_line(name)} into {one_line(str(file))}, which is no safetensors "
                "file of this folder",
                "get it again",
            )
    return files


def _found(folder: Path) -> Sequence[str]:
    """Return the files of a folder without an index: `model.safetensors`, or all that are named so."""
    names = sorted(path.name for path in folder.iterdir())
    if "model.safetensors" in names:
        return ["model.safetensors"]
    files = [name for name in names if name.startswith("model") and name.endswith(".safetensors")]
    if files:
        return files
    if pickles := [name for name in names if name.endswith(_PICKLES)]:
        raise ModelError(
            f"{one_line(pickles[0])} is a pickle, which can run any program when it is opened, and "
            f"{one_line(folder.name)} has no safetensors",
            "get the model in safetensors, or have transformers' `save_pretrained` write it anew",
        )
    raise ModelError(
        f"{one_line(folder.name)} has no model.safetensors", "name the folder of a whole model"
    )
