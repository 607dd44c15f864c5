"""What is rented: the cheapest GPU that fits, a template's command, and what cannot be is refused."""

from __future__ import annotations

import pytest

from dure.errors import UsageError
from dure.pods.launch import chosen_offer
from dure.pods.money import Money
from dure.pods.provider import GpuOffer
from dure.pods.templates import template_of


def offer(name: str, memory: int, secure: str, community: str = "", **more: object) -> GpuOffer:
    return GpuOffer(
        id=f"NVIDIA {name}",
        name=name,
        memory=memory,
        secure=Money.of(secure) if secure else None,
        community=Money.of(community) if community else None,
        **{"availability": "HIGH", **more},  # type: ignore[arg-type]
    )


OFFERS = [
    offer("A5000", 24, "0.29", "0.19"),
    offer("RTX 4090", 24, "0.69", "0.64"),
    offer("L40S", 48, "0.86", most={"SECURE": 2}),
    offer("A40", 48, "0.40", availability="NONE"),
    offer("H100", 80, "2.69"),
]


@pytest.mark.parametrize(
    ("cloud", "wanted", "chosen"),
    [
        ("SECURE", {}, "A5000"),
        ("SECURE", {"gpu": "4090"}, "RTX 4090"),
        ("SECURE", {"memory": 40}, "L40S"),  # the A40 is not to be had
        ("SECURE", {"memory": 40, "gpus": 2}, "A5000"),  # 24 GB each
        ("SECURE", {"memory": 90, "gpus": 2}, "L40S"),
        ("SECURE", {"memory": 140, "gpus": 3}, "H100"),  # there are two L40S at most
        ("COMMUNITY", {"gpu": "rtx"}, "RTX 4090"),
    ],
)
def test_the_cheapest_that_fits_is_chosen(
    cloud: str, wanted: dict[str, int | str], chosen: str
) -> None:
    """By part of a name, the memory of all GPUs, their number, and what is to be had in the cloud."""
    assert chosen_offer(OFFERS, cloud, **wanted).name == chosen  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cloud", "wanted"), [("SECURE", {"memory": 100}), ("COMMUNITY", {"gpu": "H100"})]
)
def test_what_nobody_offers_is_told(cloud: str, wanted: dict[str, int | str]) -> None:
    """With all that was wanted."""
    with pytest.raises(UsageError, match=f"nobody offers 1 of .* in the {cloud.lower()} cloud"):
        chosen_offer(OFFERS, cloud, **wanted)  # type: ignore[arg-type]


def test_servers_listen_inside_the_pod_alone() -> None:
    """Both engines: the way in is ssh."""
    for engine, port in (("llama.cpp", 8080), ("vllm", 8000)):
        made = template_of("serve", model="a/b", engine=engine, volume="/workspace")
        assert f"--host 127.0.0.1 --port {port}" in made.run
        assert made.port == port
        assert all(path.startswith("/workspace/") for path in made.env.values())
    assert template_of("workbench", volume="/workspace").port == 0


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ({"name": "serve"}, "--model"),
        ({"name": "serve", "model": "a/b; rm -rf /"}, "--model"),
        ({"name": "serve", "model": "a/b", "engine": "ollama"}, "no template serve with ollama"),
        ({"name": "train"}, "no template train"),
        ({"name": "workbench", "model": "a/b"}, "serves no model"),
    ],
)
def test_templates_that_cannot_be_are_refused(words: dict[str, str], problem: str) -> None:
    """A model's name cannot be a command."""
    with pytest.raises(UsageError, match=problem):
        template_of(**words, volume="/workspace")
