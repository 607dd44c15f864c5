"""What a server tells the page has Korean: every sentence with a code, route reason, error and warning."""

from __future__ import annotations

import re
from pathlib import Path

from page_sentences import blanks, english_sentences, english_texts, korean, lacking, route_reasons

from dure.serve.page.journal import Journal

ROOT = Path(__file__).parents[2]
GLUED = re.compile(r"(?<=\w)\{w?\d+\}")  # a plural, or a remark: Korean may do without


def test_every_sentence_with_a_code_has_korean_with_the_same_facts() -> None:
    """Text and cure, and nothing that is said no more."""
    said = korean()["said"]
    assert said.keys() == english_sentences().keys()
    for code, (text, cure) in english_sentences().items():
        assert blanks(said[code]["text"]) == blanks(text), code
        assert blanks(said[code].get("cure", "")) == blanks(cure), code
        assert ("cure" in said[code]) == bool(cure), code


def test_every_reason_of_a_route_has_korean() -> None:
    """The words that a router gives as its reason."""
    assert korean()["routes"].keys() == route_reasons()


def test_every_error_and_warning_that_reaches_the_page_has_korean() -> None:
    """They are read from the source: `python docs/page_sentences.py` lists what is missing."""
    texts = korean()["texts"]
    assert lacking(texts) == []
    assert texts.keys() - english_texts() == set()
    assert len(texts) > 150


def test_korean_sentences_have_the_values_of_the_english_ones() -> None:
    """But for plurals; and they are Korean."""
    found = korean()
    for english, text in {**found["texts"], **found["phrases"]}.items():
        assert blanks(text) <= blanks(english), english
        assert blanks(GLUED.sub("", english)) <= blanks(text), english
    whole = [*found["texts"].items(), *found["phrases"].items()]
    assert [e for e, text in whole if not re.search("[가-힣]", text) and ":" not in text] == []


def test_what_happened_is_told_with_its_code_and_its_facts() -> None:
    """Only those of the sentence; what an event does not tell is a question mark in English."""
    journal = Journal()
    journal.add_cluster_events(
        [
            {
                "event": "throttled",
                "node": "pi-3",
                "why": ["under-voltage", "throttled"],
                "time": 5.0,
            },
            {"event": "engine_started", "shares": [1, 1], "time": 6.0},
            {"event": "facts", "load": 1, "time": 7.0},
        ]
    )
    slow, started = journal.since(0)
    assert slow.text == "pi-3 runs slower than it could: under-voltage, throttled"
    assert (slow.code, slow.facts["why"], slow.at) == (
        "throttled",
        ["under-voltage", "throttled"],
        5.0,
    )
    assert (started.text, started.facts) == ("the model ? started", {})


def test_pieces_of_sentences_are_still_said() -> None:
    """What is put into sentences, and the page's own words, stand in the source as they are translated."""
    files = [*(ROOT / "src" / "dure").rglob("*.py"), *(ROOT / "page" / "src").rglob("*.ts")]
    source = re.sub(r"\s+", " ", "".join(path.read_text() for path in files))
    pieces = {
        max(re.split(r"\{w?\d+\}", phrase), key=len).strip(" ,:()")
        for phrase in korean()["phrases"]
    }
    assert {piece for piece in pieces if piece not in source} == set()


def test_a_text_without_words_is_no_sentence() -> None:
    """A blank beside a blank needs no Korean; its values may have it."""
    assert not any(re.fullmatch(r"(\{\d+\}|\W)*", text) for text in english_texts())
    assert blanks("{1} of {name}") == {"1", "name"}
