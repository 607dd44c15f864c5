"""The sentences that the page is told: each has a code and its facts beside the English text.

By the code a page says it in another language. What has no code, as an engine's warning, is known there by
its text. Refuses to know where sentences are shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import Any, NamedTuple

import msgspec

__all__ = ["SENTENCES", "SaidSentence", "Sentence", "said"]


class Sentence(NamedTuple):
    """What is said, and what cures it; facts stand in curly brackets."""

    text: str
    cure: str = ""

    @property
    def names(self) -> set[str]:
        """The names of its facts."""
        return {name for _, name, _, _ in Formatter().parse(self.text + self.cure) if name}


SENTENCES: Mapping[str, Sentence] = {
    # what was written into the log of a cluster, by the names of its events
    "engine_started": Sentence("the model {model} started"),
    "engine_ended": Sentence("the engine ended: {reason}"),
    "answers": Sentence("{node} answers again"),
    "silent": Sentence("{node} does not answer: {reason}", "see `dure cluster status`"),
    "throttled": Sentence("{node} runs slower than it could: {why}", "ask `dure doctor --cluster`"),
    "unthrottled": Sentence("{node} runs at full speed again"),
    "hot": Sentence("{node} is at {temperature_c} °C", "cool it: a heat sink, a fan"),
    "cooled": Sentence("{node} has cooled down"),
    "link_errors": Sentence("{node}: {errors} errors on {device}", "change its cable or its port"),
    "left_out": Sentence("the model runs without {node}: {reason}"),
    "joined": Sentence("{node} joined"),
    "removed": Sentence("{node} was removed"),
    "refused": Sentence("{name} at {host} was refused: {reason}"),
    "moved": Sentence("{node} is at {host} now"),
    "waiting": Sentence("waiting: {reason}"),
    "replayed": Sentence("interrupted answers go on after {replay_s} s"),
    # what this server writes down
    "model_loaded": Sentence("the model is loaded"),
    "routed": Sentence("{path} to {target} ({route}): {seconds} s"),
    "work_done": Sentence("{doing} {name}: done"),
    "work_stopped": Sentence("{doing} {name}: stopped"),
    "work_failed": Sentence("{doing} {name}: failed: {reason}", "{cure}"),
    # how a machine is now
    "no_answer": Sentence("{reason}", "see `dure cluster status`"),
    "throttled_now": Sentence("throttled: {why}", "`dure doctor` names the cause and its cure"),
    "hot_now": Sentence("{temperature_c} °C", "cool it: a heat sink, a fan, air around it"),
    "little_memory": Sentence(
        "little memory is free", "end other programs, or give it a smaller share"
    ),
}
"""By code. A code keeps its meaning: a page that is newer than its server knows it too."""


class SaidSentence(msgspec.Struct, frozen=True, omit_defaults=True):
    """A sentence with its facts. code: "" if it is known by its text alone."""

    text: str
    cure: str = ""
    code: str = ""
    facts: Mapping[str, Any] = {}


def said(code: str, facts: Mapping[str, Any]) -> SaidSentence:
    """Return the sentence of a code; a fact that is not told is a question mark in it."""
    sentence = SENTENCES[code]
    used = {name: facts[name] for name in sentence.names if name in facts}
    plain = _Known({name: _plain(value) for name, value in used.items()})
    return SaidSentence(
        sentence.text.format_map(plain), sentence.cure.format_map(plain), code, used
    )


def _plain(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


class _Known(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "?"
