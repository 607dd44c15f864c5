"""How the demo model's stories are written: templates become sentences, sentences a story.

Knows the grammar of a template and the order of a story's parts; every choice comes from a
`random.Random`, so a story is repeatable from its seed.
Refuses to know the words (they are in `village`) and how a chat looks (`corpus`).
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from demo_model.village import (
    ANIMALS,
    CHILDREN,
    CLOSINGS,
    COMPUTERS,
    CROPS,
    FAULTS,
    FOOD,
    GENERAL_QA,
    HIDING,
    LESSONS,
    LINKS,
    LOST,
    MOODS,
    OPENINGS,
    PEOPLE,
    REPAIRS,
    THEMES,
    VILLAGE,
    WEATHER,
    WHEN,
    Person,
    Slots,
)

CHOICE = re.compile(r"\[([^\[\]]*)\]")
SLOT = re.compile(r"\{(\w+)\}")
ARTICLE = re.compile(r"\b([Aa]) (?=[aeiouAEIOU])")
STARTS = re.compile(r"(^|[.!?] |\n)(\"?)([a-z])")
FORMS = {"he": ("he", "him", "his"), "she": ("she", "her", "her")}


def expand(rng: random.Random, template: str, slots: Slots) -> str:
    """Choose every `[a|b]` (innermost first), fill every `{slot}`, set articles and capitals.

    Raises KeyError when a slot has no value.
    """
    count = 1
    while count:
        template, count = CHOICE.subn(lambda m: rng.choice(m[1].split("|")), template)
    text = SLOT.sub(lambda m: slots[m[1]], template)
    text = ARTICLE.sub(r"\1n ", text)
    return STARTS.sub(lambda m: m[1] + m[2] + m[3].upper(), text)


@dataclass(frozen=True)
class Story:
    """A story: its sentences in order, its theme, and the slots from which it was written."""

    theme: str
    sentences: tuple[str, ...]
    slots: Slots

    def text(self, paragraph: int = 0) -> str:
        """The sentences as one text; a blank line after every `paragraph` sentences if not 0."""
        if not paragraph:
            return " ".join(self.sentences)
        starts = range(0, len(self.sentences), paragraph)
        return "\n\n".join(" ".join(self.sentences[i : i + paragraph]) for i in starts)


def person_slots(rng: random.Random) -> Slots:
    """The main person (A), a helper (B) and a third (C), all different, with their pronouns."""
    first, second, third = rng.sample(PEOPLE, 3)
    he, him, his = FORMS[first.pronoun]
    bhe, bhim, _ = FORMS[second.pronoun]
    if rng.random() < 0.15:
        third = third._replace(name=rng.choice(CHILDREN)[0])
    return {
        "A": first.name, "job": first.job, "place": first.place, "he": he, "him": him, "his": his,
        "He": he.capitalize(), "B": second.name, "bjob": second.job, "bplace": second.place,
        "bhe": bhe, "bhim": bhim, "Bhe": bhe.capitalize(), "C": third.name,
        "Rosa": rng.choice(("Rosa", "Petra", "Mina")), "village": VILLAGE,
    }  # fmt: skip


def thing_slots(rng: random.Random) -> Slots:
    """Every thing a story may need: an animal, a repair, a fault, a crop, weather and food."""
    animal, repair = rng.choice(ANIMALS), rng.choice(REPAIRS)
    fault, crop, lost = rng.choice(FAULTS), rng.choice(CROPS), rng.choice(LOST)
    nodes = rng.sample(COMPUTERS, 5)
    return {
        "animal": animal.kind, "pet": animal.name, "sound": animal.sound,
        "hiding": rng.choice(HIDING), "thing": repair.thing, "damage": repair.damage,
        "cause": repair.cause, "tool": repair.tool, "material": repair.material,
        "trouble": repair.trouble, "proof": repair.proof, "sign": fault.sign,
        "fcause": fault.cause, "cure": fault.cure, "ftool": fault.tool, "crop": crop.name,
        "verb": crop.verb, "past": crop.past, "htool": crop.tool, "dish": crop.dish,
        "lost": lost[0], "spot": lost[1], "node": nodes[0],
        "nodes": ", ".join(nodes[1:]) + " and " + nodes[0], "weather": rng.choice(WEATHER),
        "when": rng.choice(WHEN), "mood": rng.choice(MOODS), "food": rng.choice(FOOD),
        "food2": rng.choice(FOOD),
    }  # fmt: skip


def episode(rng: random.Random, theme: str, slots: Slots, thinned: bool) -> list[str]:
    """The middle of a story, one template per stage; `thinned` leaves out inner stages."""
    stages = THEMES[theme][0]
    last = len(stages) - 1
    kept = [i for i in range(len(stages)) if i in (0, 2, last - 1, last) or not thinned]
    return [expand(rng, rng.choice(stages[i]), slots) for i in kept]


def write_story(
    rng: random.Random, theme: str | None = None, chosen: Slots | None = None, episodes: int = 1
) -> Story:
    """Write one story of `episodes` parts (0 means a very short one).

    `chosen` overrides slots, so that a story can be about a given person, animal or thing.
    """
    slots = {**person_slots(rng), **thing_slots(rng), **(chosen or {})}
    theme = theme or rng.choice(tuple(THEMES))
    parts = [expand(rng, rng.choice(OPENINGS), slots)]
    parts += episode(rng, theme, slots, thinned=episodes == 0 or rng.random() < 0.2)
    for _ in range(1, episodes):
        people = {key: slots[key] for key in ("A", "job", "place", "he", "him", "his", "He")}
        later = {**person_slots(rng), **thing_slots(rng), **people}
        while slots["A"] in (later["B"], later["C"]):
            later = {**person_slots(rng), **thing_slots(rng), **people}
        parts.append(expand(rng, rng.choice(LINKS), later))
        parts += episode(rng, rng.choice(tuple(THEMES)), later, thinned=False)
    closings = rng.sample(CLOSINGS, 0 if episodes == 0 else rng.randint(1, 2))
    parts += [expand(rng, template, slots) for template in closings]
    if rng.random() < 0.4:
        parts.append(expand(rng, rng.choice(LESSONS), slots))
    return Story(theme, tuple(parts), slots)


def story_about(rng: random.Random, person: Person, episodes: int = 1) -> Story:
    """A story whose main person is `person`."""
    he, him, his = FORMS[person.pronoun]
    main = {"A": person.name, "job": person.job, "place": person.place, "he": he, "him": him}
    while True:
        story = write_story(rng, None, {**main, "his": his, "He": he.capitalize()}, episodes)
        if person.name not in (story.slots["B"], story.slots["C"]):
            return story


def story_questions(rng: random.Random, story: Story) -> list[tuple[str, str]]:
    """Questions about the first episode of a story with their answers, in random order."""
    pairs = list(THEMES[story.theme][1] + GENERAL_QA)
    rng.shuffle(pairs)
    slots = story.slots
    return [(expand(rng, ask, slots), expand(rng, answer, slots)) for ask, answer in pairs]
