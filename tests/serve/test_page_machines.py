"""What the page draws of machines and links, from places of ranks and notes of steps."""

from __future__ import annotations

import pytest

from dure.cluster.root.speeds import LinkSpeed
from dure.cluster.trust.identity import ROOT_NAME
from dure.generate.request import ModelInfo, RankPlace
from dure.generate.step_notes import StepNote
from dure.serve.page.machines import links_shown, nodes_shown, sync_of


def info(*nodes: str) -> ModelInfo:
    """A model with a rank on each of these machines."""
    places = tuple(RankPlace(node, node, 100, 10) for node in nodes)
    return ModelInfo(
        path="m.gguf",
        name="m",
        architecture="qwen3",
        n_ctx=1,
        n_ctx_train=1,
        n_vocab=1,
        n_embd=1,
        n_sequences=1,
        n_ranks=len(nodes),
        threads=(1,) * len(nodes),
        weights_bytes=1,
        n_params=1,
        file_type="F16",
        places=places,
    )


def note(*sync_s: float, n_prompt: int = 0) -> StepNote:
    zeros = (0.0,) * len(sync_s)
    return StepNote(0.0, 1, n_prompt, zeros, sync_s, zeros, zeros)


THREE = info("", "pi-1", "pi-2")
LINKS = {"pi-1": LinkSpeed(0.0002, 1e8), "pi-2": LinkSpeed(0.0004, 5e7)}


def test_any_two_ranks_have_a_link_and_nothing_is_invented_between_nodes() -> None:
    """Only what was measured from the root has a speed; what one link takes of a sum is not known."""
    sync = sync_of(THREE, [note(0.004, 0.001, 0.003)])
    links = links_shown(THREE, sync, LINKS.get, {"pi-1": 3, "pi-2": 0})
    assert [link["ranks"] for link in links] == [[0, 1], [0, 2], [1, 2]]
    assert [link["mbit_per_s"] for link in links] == [800, 400, None]
    assert [link["round_trip_us"] for link in links] == [
        pytest.approx(200),
        pytest.approx(400),
        None,
    ]
    assert [link["errors"] for link in links] == [3, 0, None]
    assert {link["wire_s_per_token"] for link in links} == {None}


def test_who_is_ready_earlier_waits_and_the_last_one_does_not() -> None:
    """Means of the steps of answers; those of prompts are left out."""
    sync = sync_of(
        THREE, [note(0.004, 0.001, 0.003), note(0.006, 0.001, 0.003), note(9, 9, 9, n_prompt=1)]
    )
    links = links_shown(THREE, sync, LINKS.get, {})
    assert [link["waits"] for link in links] == [0, 0, 2]
    assert [link["wait_s_per_token"] for link in links] == pytest.approx([0.004, 0.002, 0.002])
    nodes = nodes_shown(THREE, (), (), {}, sync)
    assert [one["wait_s_per_token"] for one in nodes] == pytest.approx([0.004, 0.0, 0.002])


def test_with_two_ranks_the_wire_is_that_of_their_link() -> None:
    two = info("", "pi-1")
    (link,) = links_shown(two, sync_of(two, [note(0.004, 0.001)]), LINKS.get, {})
    assert link["wire_s_per_token"] == 0.001


def test_links_are_drawn_before_anything_was_measured() -> None:
    """Without a note, or with those of an engine that had another number of ranks."""
    for notes in ([], [note(0.1, 0.2)]):
        sync = sync_of(THREE, notes)
        assert sync is None
        links = links_shown(THREE, sync, lambda _: None, {})
        assert [link["wait_s_per_token"] for link in links] == [None] * 3
    assert links_shown(None, None, LINKS.get, {}) == []
    assert links_shown(info(""), sync_of(info(""), [note(0.1)]), LINKS.get, {}) == []


def test_two_ranks_of_one_node_have_no_network_between_them() -> None:
    """Nor is the node's link to the root theirs."""
    places = info("pi-1", "pi-1", ROOT_NAME)
    links = links_shown(places, None, LINKS.get, {"pi-1": 3})
    assert [link["mbit_per_s"] for link in links] == [None, 800, 800]
