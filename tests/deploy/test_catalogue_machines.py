"""Machines of the catalogue, to quantize for: speeds by type, shares, and a token's other time."""

from __future__ import annotations

from pathlib import Path

import pytest

from dure.deploy.quantize_machines import machines_of_catalogue
from dure.errors import ResourceError, UsageError
from dure.model.gguf import open_gguf
from dure.plan.machines import device_named
from dure.plan.outline import outline_named, outlined_model

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
TYPES = ("Q2_K", "Q4_0")


def test_machines_have_the_catalogues_speeds_and_the_shares_of_a_start() -> None:
    """A faster one gets more; besides reading weights, a token takes the sums between them."""
    with open_gguf(DEMO) as model:
        alone = machines_of_catalogue(model, TYPES, "pi5-8gb")
        two = machines_of_catalogue(model, TYPES, "pi5-8gb,n150")
    processor = device_named("pi5-8gb").processor
    assert alone.bytes_per_s == ({one: processor.read_speed(one) for one in TYPES},)
    assert alone.bytes_per_s[0]["Q2_K"] < alone.bytes_per_s[0]["Q4_0"]
    assert two.names == ("pi5-8gb", "n150")
    assert two.shares[0] < two.shares[1]
    assert two.rest_s > alone.rest_s
    assert "avx2" in two.features[1]


def test_experts_are_read_slower() -> None:
    """Their rows lie apart."""
    outline = outline_named("qwen3:30b-a3b")
    assert outline is not None
    model = outlined_model("qwen3:30b-a3b", outline, "Q4_0")
    found = machines_of_catalogue(model, TYPES, "pi5-8gb:4")
    assert found.bytes_per_s[0]["Q4_0"] < device_named("pi5-8gb").processor.read_speed("Q4_0")
    assert found.shares == (0.25,) * 4


def test_unknown_machines_and_impossible_cuts_are_refused() -> None:
    """With what there is instead."""
    with open_gguf(DEMO) as model:
        with pytest.raises(UsageError, match="did you mean"):
            machines_of_catalogue(model, TYPES, "pi5-8bg")
        with pytest.raises(ResourceError, match="name more machines, or others"):
            machines_of_catalogue(model, TYPES, "pi5-8gb:64")
