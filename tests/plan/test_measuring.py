"""Which measured speeds are believed, and which are measured again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from dure.cluster.root.speeds import measured_until_sure
from dure.engine.instruments.speed import Speed
from dure.plan.measuring import alike, spread_of, wants_more


@pytest.mark.parametrize(
    ("samples", "before", "equals", "wanted"),
    [
        ([], [], [], True),
        ([23.0], [], [], True),  # nothing to compare it with
        ([23.0], [20.0], [], False),
        ([0.5], [23.0, 23.0], [], True),  # far from what was known
        ([23.0], [0.5], [22.0], True),  # which was bad itself, as the next says
        ([23.0, 22.0], [0.5], [22.0], False),
        ([23.0], [], [22.0, 24.0], False),
        ([0.5], [], [22.0, 24.0], True),  # far from its equals
        ([1.3], [], [1.3, 23.0], True),  # the fastest of them counts
        ([0.5, 23.0], [], [], True),  # they differ
        ([0.5, 23.0, 22.0], [], [], False),  # one of three was bad
        ([22.0, 23.0], [], [], False),
        ([11.0, 11.5], [24.0, 25.0], [], True),  # it may have become slower
        ([11.0, 11.5, 11.2], [24.0, 25.0], [], False),  # it has
        ([1.0, 5.0], [], [], True),
        ([1.0, 5.0, 20.0], [], [], False),  # no more will come of it
    ],
)
def test_a_doubtful_speed_is_measured_again(
    samples: Sequence[float], before: Sequence[float], equals: Sequence[float], wanted: bool
) -> None:
    assert wants_more(samples, before, equals) == wanted


def test_one_bad_sample_of_several_is_no_spread() -> None:
    assert spread_of([23.0]) == 0
    assert spread_of([0.5, 23.0]) > 0.9
    assert spread_of([0.5, 23.0, 23.0]) == 0
    assert spread_of([20.0, 22.0, 24.0]) == pytest.approx(2 / 22)


def test_equals_are_machines_of_one_kind_that_were_measured() -> None:
    kinds = {"a": "pi", "b": "pi", "c": "server", "d": "pi"}
    speeds: Mapping[str, Sequence[float]] = {"a": [1.0], "b": [4.0, 5.0, 9.0], "c": [70.0], "d": []}
    assert alike("a", kinds, speeds) == [5.0]
    assert alike("c", kinds, speeds) == []


def test_only_those_in_doubt_are_measured_again_and_all_samples_are_told() -> None:
    """Two boards that are alike agree at once; the third was disturbed, and its later samples say so."""
    figures = {"a": [23e9], "b": [22e9], "c": [0.5e9, 23e9, 23e9]}
    asked = []

    def measure(names: list[str]) -> dict[str, Speed]:
        asked.append(names)
        return {name: Speed("Q4_0", 4, figures[name].pop(0), 1.0) for name in names}

    kinds = dict.fromkeys(figures, "pi")
    found = measured_until_sure(measure, list(figures), {}, kinds)
    assert asked == [["a", "b", "c"], ["c"], ["c"]]
    assert [one.decode_bytes_per_s for one in found["c"]] == [0.5e9, 23e9, 23e9]


def test_machines_that_disturb_each_other_are_measured_one_by_one() -> None:
    """As virtual machines of one computer do; that they agree with each other proves nothing."""
    figures = {"a": [23e9] * 3, "b": [1.3e9, 22e9, 22e9], "c": [1.3e9, 21e9, 23e9]}
    asked = list[list[str]]()

    def measure(names: list[str]) -> dict[str, Speed]:
        asked.append(names)
        return {name: Speed("Q4_0", 4, figures[name].pop(0), 1.0) for name in names}

    found = measured_until_sure(measure, list(figures), {}, dict.fromkeys(figures, "pi"))
    assert asked[0] == ["a", "b", "c"]
    assert all(len(names) == 1 for names in asked[1:])
    assert {len(found["b"]), len(found["c"])} == {3}
