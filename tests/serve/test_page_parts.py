"""What the page keeps between two looks at it, as values: the last day, the models' headers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from dure.cluster.root.membership import Member
from dure.cluster.root.survey import NodeReport
from dure.generate.request import EngineStats
from dure.hardware.health import Health
from dure.serve.page.history import History
from dure.serve.page.models import models_shown
from tests.support.dure_server import DEMO


def report(name: str, *throttled: str) -> NodeReport:
    """A machine, and why it is slow."""
    health = Health(None, throttled, None, 0.0, 0.0, 8 << 30, 1 << 40, ())
    return NodeReport(Member(name, "", 0, 0, 0.0), health=health)


def test_since_when_a_machine_is_throttled_is_known_though_nobody_looked() -> None:
    """From the history's own look on; one that recovered meanwhile begins anew."""
    history = History()
    history.add(EngineStats(), [report("pi-1", "low voltage"), report("pi-2")])
    (point,) = history.shown()["points"]
    first = history.throttled_since([report("pi-1", "low voltage"), report("pi-2", "hot")])
    assert set(first) == {"pi-1", "pi-2"}
    assert first["pi-1"] <= point["at"] <= first["pi-2"]
    history.add(EngineStats(), [report("pi-1"), report("pi-2", "hot")])
    second = history.throttled_since([report("pi-1", "low voltage"), report("pi-2", "hot")])
    assert second["pi-1"] >= first["pi-2"] == second["pi-2"]


def test_models_are_listed_while_none_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library's, and the header of a file that was replaced is read again."""
    monkeypatch.setenv("DURE_MODELS", str(tmp_path))
    model = tmp_path / "demo.gguf"
    shutil.copy(DEMO, model)
    (shown,) = models_shown(None)
    assert (shown["architecture"], shown["is_served"]) == ("qwen3", False)
    (shown,) = models_shown(model)
    assert shown["is_served"]
    model.write_bytes(b"GGUF")
    os.utime(model, ns=(1, 1))
    (shown,) = models_shown(None)
    assert shown["architecture"] is None
