"""The moving picture of a terminal: what commands wrote, and nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from recording import COMMANDS, PICTURE, Screen, picture, record

SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)  # noqa: S314  # of our own making


def texts(svg: str, *, at_end: bool = True) -> list[str]:
    """What a picture shows in the end, or all that it ever shows, part by part."""
    found = []
    for text in parsed(svg).iter(f"{SVG}text"):
        move = text.find(f"{SVG}animate")
        if not at_end or move is None or not move.get("values", "").endswith("hidden"):
            found.append("".join(span.text or "" for span in text.iter(f"{SVG}tspan")))
    return [one.replace("\u00a0", " ") for one in found]


def test_commands_run_on_a_terminal_and_all_that_they_write_is_shown(tmp_path: Path) -> None:
    """Their lines stay, in order, with the commands before them; the folder is theirs."""
    (tmp_path / "rice").touch()
    svg = picture(record(["tty >/dev/null && ls", "echo '<b>'"], tmp_path), "a test")
    shown = "".join(texts(svg)).replace(" ", "")
    assert shown == "$tty>/dev/null&&lsrice$echo'<b>'<b>"


def test_a_line_that_is_written_over_is_shown_for_its_time_only(tmp_path: Path) -> None:
    """As a bar of progress."""
    command = r"printf '10 %%'; sleep 0.3; printf '\r\033[Kdone'"
    svg = picture(record([command], tmp_path), "a test")
    assert "10 %" in texts(svg, at_end=False)
    assert "10 %" not in texts(svg)
    assert "done" in texts(svg)


def test_a_screen_obeys_what_programs_write() -> None:
    """Colours, moves, erasing; letters after the last column are in the next line."""
    screen = Screen()
    screen.write("one\r\ntwo\r\n\x1b[1A\x1b[31mT\x1b[0mwo\x1b[2K\rthree\x1b[4D\x1b[J")
    lines = ["".join(text for text, _ in line) for line in screen.shown()]
    assert lines == ["one", "t"]
    screen.write("\r\x1b[32mgreen\x1b[0m plain")
    assert [(text, style.colour) for text, style in screen.shown()[1]] == [
        ("green", "32"),
        (" plain", ""),
    ]
    screen.write("\r\n" + "x" * 110)
    assert [len(line[0][0]) for line in screen.shown()[2:]] == [104, 6]


def test_the_picture_of_the_readme_is_of_these_commands_and_needs_nothing() -> None:
    svg = PICTURE.read_text()
    title = parsed(svg).find(f"{SVG}title")
    assert title is not None
    assert title.text == "; ".join(COMMANDS)
    assert "tokens/s" in "".join(texts(svg))
    assert {one.tag.removeprefix(SVG) for one in parsed(svg).iter()} == {
        *("svg", "title", "rect", "text", "tspan", "animate")
    }
    assert "href" not in svg
    assert "url(" not in svg
