"""Keeps what runs on a cluster have shown of the speeds that were predicted for it.

A correction is of machines with their shares, of a type of weights, of experts or none, and of the figures
that the prediction was made from: with others it no longer counts. Refuses to know models otherwise.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from dure.model.gguf import GgufFile
from dure.plan.correction import Correction
from dure.plan.figures import Figure
from dure.plan.load import main_type_of
from dure.plan.setups import Setup
from dure.whole_file import write_whole

__all__ = ["CORRECTIONS_FILE", "KnownCorrections"]

CORRECTIONS_FILE = "corrections.json"


class _Kept(msgspec.Struct, frozen=True):
    """figures: a hash of all that the prediction was made from."""

    figures: str
    correction: Correction


class KnownCorrections:
    """Stores the last correction of each way to run, in a cluster's directory."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / CORRECTIONS_FILE

    def of(self, model: GgufFile, setup: Setup, shares: Sequence[float]) -> Correction | None:
        """Return the correction for a model like this one on these machines, if there is one."""
        kept = self._read().get(_way(model, setup, shares))
        return kept.correction if kept and kept.figures == _figures(setup) else None

    def keep(
        self, model: GgufFile, setup: Setup, shares: Sequence[float], correction: Correction
    ) -> None:
        """Store a correction in place of an older one of the same. Raises OSError."""
        kept = {
            **self._read(),
            _way(model, setup, shares): _Kept(_figures(setup), correction),
        }
        write_whole(self._path, msgspec.json.format(msgspec.json.encode(kept)))

    def _read(self) -> dict[str, _Kept]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, _Kept])
        except (OSError, msgspec.MsgspecError):
            return {}  # the next run shows it again


def _way(model: GgufFile, setup: Setup, shares: Sequence[float]) -> str:
    """Return what a correction is of, as a person can read it."""
    total = sum(shares)
    ranks = [f"{name} {share / total:.0%}" for name, share in zip(setup.names, shares, strict=True)]
    kind = "mixture" if any("_exps." in name for name in model.tensors) else "dense"
    wanted = main_type_of(model)
    return f"{', '.join(ranks)}: {kind} in {wanted}, {setup.engine.title}"


def _figures(setup: Setup) -> str:
    """Return a hash of what the speeds on a setup are predicted from, with the program that does it."""
    processors = [one.processor for one in setup.devices]
    link = setup.link if len(processors) > 1 else None
    figures = [
        importlib.metadata.version("dure"),
        [
            [
                *map(_values, (one.reads, one.prompts, one.fews)),
                *map(_value, (one.layer_s, one.column_s)),
            ]
            for one in processors
        ],
        [link.bytes_per_s.value, link.exchange_s.value] if link else [],
    ]
    return hashlib.blake2b(msgspec.json.encode(figures), digest_size=8).hexdigest()


def _value(figure: Figure | None) -> float | None:
    return figure.value if figure else None


def _values(figures: Mapping[str, Figure]) -> list[tuple[str, float]]:
    return sorted((name, one.value) for name, one in figures.items())
