"""What people see of tuning: the loss as a line, and the demo model's documents as data."""

from __future__ import annotations

from itertools import islice
from typing import Any

from demo_model.source import END, examples

from dure.cli.terminal.braille import braille_line


def dots(picture: list[str]) -> list[list[int]]:
    """Return the heights of a picture's dots, column by column, from the top."""
    bits = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]]
    return [
        [
            4 * line + row
            for line in range(len(picture))
            for row in range(4)
            if ord(picture[line][x // 2]) & bits[x % 2][row]
        ]
        for x in range(2 * len(picture[0]))
    ]


def test_a_line_falls_from_the_top_left_to_the_bottom_right() -> None:
    picture = braille_line([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], width=4, height=2)
    assert dots(picture) == [[0], [1], [2], [3], [4], [5], [6], [7]]


def test_many_values_are_told_by_their_means_and_equal_ones_lie_in_the_middle() -> None:
    assert dots(braille_line([4.0, 2.0] * 3 + [1.0, 1.0] * 3, width=1, height=1)) == [[0], [3]]
    assert dots(braille_line([1.0, 1.0], width=1, height=1)) == [[2], [2]]
    assert braille_line([], width=3, height=2) == ["", ""]


def of_step(step: int, n: int = 200) -> list[Any]:
    return list(islice(examples(0, step), n))


def test_the_demo_models_documents_depend_on_seed_and_step_and_drills_come_in_the_middle() -> None:
    assert of_step(3, 20) == of_step(3, 20)
    assert of_step(3, 20) != of_step(4, 20)
    drills = [
        sum("Repeat" in str(one) or "Say: " in str(one) for one in of_step(step))
        for step in (700, 800, 1300)
    ]
    assert drills[1] > drills[0] + 40
    assert drills[1] > drills[2] + 40


def test_answers_of_the_demo_model_count_ten_times_as_much_as_what_others_say() -> None:
    for one in of_step(0):
        parts = one["parts"]
        assert parts[-1][0].endswith(END)
        if len(parts) > 1:
            answers = [text for text, weight in parts if weight == 1.0]
            assert all(text.startswith("<|im_start|>assistant\n") for text in answers)
            assert all("<|im_start|>assistant" not in text for text, w in parts if w == 0.1)
