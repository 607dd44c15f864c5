"""What a tuned model was made of: its base, its data, how long it learned, and what that led to.

It lies in the file itself, so it is quantized, copied and served with the model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from dure.convert.model import Metadata
from dure.errors import UsageError
from dure.model.gguf import GgufFile, ValueKind, value_of
from dure.model.gguf.values import one_line

__all__ = ["CARD_KEY", "DataFile", "TuneCard", "card_lines", "card_of_run", "read_card"]

CARD_KEY = "general.tuning"
"""Key of the whole card as JSON, beside the keys that others know."""

_METHODS = {
    "lora": "an adapter (LoRA)",
    "full": "all weights",
    "from-scratch": "a new model",
}


class DataFile(msgspec.Struct, frozen=True):
    """A file of examples. sha256: of its bytes, "" if it was written during the run."""

    name: str
    sha256: str = ""


class TuneCard(msgspec.Struct, frozen=True):
    """A run of `dure tune`.

    base, base_fingerprint: what it began with, "" for a new model. method: lora, full or from-scratch.
    step: of the weights; steps: of the run. loss: of the last step; eval_loss: of the held-out examples.
    settings: by option. dure: version.
    """

    base: str
    base_fingerprint: str
    method: str
    data: tuple[DataFile, ...]
    examples: int
    step: int
    steps: int
    loss: float | None
    eval_loss: float | None
    settings: dict[str, Any]
    dure: str

    def metadata(self) -> Metadata:
        """Return the keys of a GGUF: the card, and what other programs read."""
        keys: dict[str, Any] = {
            CARD_KEY: msgspec.json.encode(self).decode(),
            "general.finetune": self.method,
            "general.description": ". ".join(text for _, text in card_lines(self)) + ".",
        }
        if self.base:
            keys |= {
                "general.base_model.count": value_of(ValueKind.UINT32, 1),
                "general.base_model.0.name": self.base,
            }
        if self.data:
            keys["general.dataset.count"] = value_of(ValueKind.UINT32, len(self.data))
        for number, file in enumerate(self.data):
            keys[f"general.dataset.{number}.name"] = file.name
        return keys


def card_lines(card: TuneCard) -> list[tuple[str, str]]:
    """Return a heading and a phrase for everything that a card says."""
    files = ", ".join(
        f"{file.name} (SHA-256 {file.sha256[:16]})" if file.sha256 else file.name
        for file in card.data
    )
    best = "" if card.step == card.steps else f", weights of step {card.step:,}"
    losses = [f"loss {card.loss:.4f}"] if card.loss is not None else []
    losses += [f"held-out loss {card.eval_loss:.4f}"] if card.eval_loss is not None else []
    found = [
        ("tuned", f"{_METHODS.get(card.method, card.method)} by dure {card.dure}"),
        ("base", f"{card.base} (fingerprint {card.base_fingerprint})" if card.base else ""),
        ("data", f"{card.examples:,} examples of {files}" if card.examples else files),
        ("steps", f"{card.steps:,}{best}"),
        ("result", ", ".join(losses)),
    ]
    return [(heading, text) for heading, text in found if text]


def read_card(gguf: GgufFile) -> TuneCard | None:
    """Return the card of a file, None if it has none that can be read."""
    value = gguf.metadata.get(CARD_KEY)
    if value is None or value.kind is not ValueKind.STRING:
        return None
    try:
        return msgspec.json.decode(value.value, type=TuneCard)
    except msgspec.MsgspecError:
        return None


def card_of_run(run: Path, base_name: str = "") -> TuneCard:
    """Return the card of a run's folder. base_name: what to call the base, its file's name for "".

    Raises UsageError if it has not ended.
    """
    facts = _facts(run)
    settings, result, counts = facts["settings"], facts["result"], facts["data"]
    method = settings["--lora, --full or --from-scratch"]
    is_new = method == "from-scratch"
    return TuneCard(
        base="" if is_new else base_name or Path(settings["BASE"]).name,
        base_fingerprint=settings.get("the content of BASE", ""),
        method=method,
        data=tuple(_data_file(one) for one in settings["--data"]),
        examples=counts.get("examples", 0),
        step=result["step"],
        steps=result["steps"],
        loss=result.get("loss"),
        eval_loss=result.get("eval_loss"),
        settings={k: v for k, v in settings.items() if k.startswith("--")},
        dure=facts.get("dure") or version("dure"),
    )


def _facts(run: Path) -> Mapping[str, Any]:
    try:
        facts: Mapping[str, Any] = json.loads((run / "run.json").read_text())
    except (OSError, ValueError):
        facts = {}
    if "result" not in facts:
        raise UsageError(
            f"{one_line(str(run))} holds no result of `dure tune`",
            "name the --out folder of a run that has ended",
        )
    return facts


def _data_file(name: str) -> DataFile:
    path = Path(name)
    if not path.is_file():
        return DataFile(name)
    with path.open("rb") as file:
        return DataFile(path.name, hashlib.file_digest(file, "sha256").hexdigest())
