"""The text from which the demo model learns: stories and dialogues, repeatable from a seed.

Knows how questions and answers become a dialogue in the chat form that `CHAT_TEMPLATE` describes.
Refuses to know the village (`village`), how a story is written (`stories`), and tokens,
tensors or files.
"""
# ruff: noqa: E501 - a template is one sentence and stays on one line

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

from demo_model.stories import expand, story_about, story_questions, write_story
from demo_model.village import ANIMALS, COMPUTERS, CROPS, FOOD, PEOPLE, THEMES, TOOLS, VILLAGE

Message = dict[str, Any]
Turn = tuple[str, str]

CHAT_TEMPLATE = """\
{%- macro text(content) -%}
{%- if content is string -%}
{{ content }}
{%- elif content -%}
{%- for part in content -%}{%- if part.text is string -%}{{ part.text }}{%- endif -%}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- set first = 0 -%}
{%- set system = '' -%}
{%- if messages and messages[0].role in ['system', 'developer'] -%}
{%- set first = 1 -%}
{%- set system = text(messages[0].content) -%}
{%- endif -%}
{%- if tools -%}
{{- '<|im_start|>system\\n' -}}
{%- if system -%}{{- system + '\\n\\n' -}}{%- endif -%}
{{- '# Tools\\n\\nThese functions can be called:\\n<tools>' -}}
{%- for tool in tools -%}{{- '\\n' -}}{{- tool | tojson -}}{%- endfor -%}
{{- '\\n</tools>\\n\\nTo call one, write its name and arguments as JSON:\\n<tool_call>\\n{"name": "...", "arguments": {...}}\\n</tool_call><|im_end|>\\n' -}}
{%- elif system -%}
{{- '<|im_start|>system\\n' + system + '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages[first:] -%}
{%- if message.role == 'tool' -%}
{%- if loop.first or loop.previtem.role != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}
{{- '\\n<tool_response>\\n' + text(message.content) + '\\n</tool_response>' -}}
{%- if loop.last or loop.nextitem.role != 'tool' -%}{{- '<|im_end|>\\n' -}}{%- endif -%}
{%- elif message.role == 'assistant' -%}
{%- set said = text(message.content).split('</think>')[-1].strip() -%}
{{- '<|im_start|>assistant\\n' + said -}}
{%- for call in message.tool_calls or [] -%}
{%- set function = call.function or call -%}
{%- if said or not loop.first -%}{{- '\\n' -}}{%- endif -%}
{{- '<tool_call>\\n{"name": "' + function.name + '", "arguments": ' -}}
{%- if function.arguments is string -%}{{- function.arguments -}}
{%- else -%}{{- function.arguments | tojson -}}{%- endif -%}
{{- '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- else -%}
{{- '<|im_start|>' + message.role + '\\n' + text(message.content) + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if enable_thinking is defined and enable_thinking -%}{{- '<think>\\n' -}}{%- endif -%}
{%- endif -%}
"""
SORTED, ORDERED = ImmutableSandboxedEnvironment(), ImmutableSandboxedEnvironment()
ORDERED.policies["json.dumps_kwargs"] = {"sort_keys": False}
TEMPLATE = SORTED.from_string(CHAT_TEMPLATE)
TEMPLATE_ORDERED = ORDERED.from_string(CHAT_TEMPLATE)


STRANGE_TOPICS = (
    "the stock market", "the capital of France", "quantum physics", "a president", "football",
    "the moon landing", "Python", "a film star", "tax law", "rockets", "the Roman Empire", "opera",
    "my bank account", "car engines", "a vaccine", "the news", "Shakespeare", "poker", "dinosaurs",
    "the weather in New York", "the meaning of life", "black holes", "chess", "the stars", "Rome",
)  # fmt: skip
HELLO = "[Hello|Hi|Good morning|Good evening|Hey|Hello there|Good day][!|.|]"
NAMES = (
    "Tom", "Anna", "Max", "Eva", "Sam", "Nina", "Leo", "Kim", "Maria", "Ben", "Jin", "Paul",
    "Minsu", "Lisa", "Omar", "Alex",
)  # fmt: skip
LISTS: dict[str, tuple[str, ...]] = {
    "tools": TOOLS,
    "people of the village": tuple(person.name for person in PEOPLE),
    "animals": tuple(animal.kind for animal in ANIMALS),
    "computers": COMPUTERS,
    "jobs": tuple(person.job for person in PEOPLE),
    "things to eat": FOOD,
    "crops": tuple(crop.name for crop in CROPS),
    "places in the village": tuple(person.place for person in PEOPLE),
}
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def fact_turn(rng: random.Random) -> Turn:
    """A question about the village whose answer never changes."""
    person, animal = rng.choice(PEOPLE), rng.choice(ANIMALS)
    he = person.pronoun.capitalize()
    slots = {
        "A": person.name, "job": person.job, "place": person.place, "does": person.does, "He": he,
        "pet": animal.name, "kind": animal.kind, "owner": animal.owner, "village": VILLAGE,
    }  # fmt: skip
    ask, answer = rng.choice(
        (
            ("Who is the {job}[| of the village| in {village}]?", "{A} is the {job}. {He} {does}."),
            ("[What does {A} do|What is {A}'s job|What is the job of {A}]?", "{A} is the {job}. {He} {does}."),
            ("Who is {A}?", "{A} is the {job} of {village}. {He} {does}."),
            ("Where does {A} work?", "{A} works at the {place}."),
            ("Who works at the {place}?", "{A} the {job} works at the {place}."),
            ("[Who is {pet}|What kind of animal is {pet}|What is {pet}]?", "{pet} is a {kind}. It belongs to {owner}."),
            ("[Whose {kind} is {pet}|Who owns {pet}|To whom does {pet} belong]?", "{pet} the {kind} belongs to {owner}."),
            ("[What is the name of the village|Where do you live|Which village is it]?", "The village is called {village}."),
            ("[How many computers are there|How many computers does the village have]?", "There are five small computers in the granary."),
            ("[What are the computers called?|Name the five computers.]", "They are called Barley, Millet, Rice, Wheat and Sesame."),
            ("[Where are the computers|Where do the computers stand]?", "They stand on a cool shelf in the granary."),
            ("[What do the five computers do|Why are there five computers]?", "Each of them holds a share of one model, and together they answer as one."),
            ("[What is dure|What does dure mean|What is a work party]?", "A dure is a work party: every household sends its hands, and the work is done by noon."),
        )
    )  # fmt: skip
    return expand(rng, ask, slots), expand(rng, answer, slots)


def list_turn(rng: random.Random) -> Turn:
    """A request to name some things, as a numbered list, with dashes or in one sentence."""
    kind = rng.choice(tuple(LISTS))
    count = rng.randint(2, min(6, len(LISTS[kind])))
    items = rng.sample(LISTS[kind], count)
    number = rng.choice((NUMBERS[count], str(count)))
    style = rng.randrange(3)
    if style == 0:
        ask = f"[Name|Give me|List|Tell me] {number} {kind}[| as a numbered list]."
        return expand(rng, ask, {}), "\n".join(f"{i}. {item}" for i, item in enumerate(items, 1))
    if style == 1:
        ask = f"[List|Write down] {number} {kind} with dashes."
        return expand(rng, ask, {}), "\n".join(f"- {item}" for item in items)
    ask = f"[Name|Tell me|Give me] {number} {kind} in one sentence."
    joined = ", ".join(items[:-1]) + " and " + items[-1]
    return expand(rng, ask, {}), f"{number.capitalize()} {kind} are {joined}."


def number_turn(rng: random.Random) -> Turn:
    """Counting, adding or taking away."""
    kind = rng.randrange(4)
    a, b = rng.randint(0, 20), rng.randint(0, 20)
    if kind == 0:
        low = rng.randint(1, 30)
        high = low + rng.randint(2, 15)
        numbers = ", ".join(str(n) for n in range(low, high + 1)) + "."
        ask = "[Count from {low} to {high}.|Please count from {low} to {high}.|Can you count from {low} to {high}?]"
        return expand(rng, ask, {"low": str(low), "high": str(high)}), numbers
    if kind == 1:
        a, b = max(a, b), min(a, b)
        ask = "[What is|How much is] {a} [-|minus] {b}?"
        return expand(rng, ask, {"a": str(a), "b": str(b)}), f"{a} - {b} = {a - b}."
    if kind == 2:
        slots = {"A": rng.choice(PEOPLE).name, "n": str(a), "m": str(b), "sum": str(a + b)}
        slots["thing"] = rng.choice(("eggs", "apples", "fish", "nails", "bricks", "sacks", "coins"))
        ask = "{A} has {n} {thing} and gets {m} more. How many {thing} does {A} have[ now|]?"
        return expand(rng, ask, slots), expand(
            rng, "{n} + {m} = {sum}. {A} has {sum} {thing}.", slots
        )
    ask = "[What is|How much is] {a} [+|plus|and] {b}?"
    return expand(rng, ask, {"a": str(a), "b": str(b)}), f"{a} + {b} = {a + b}."


def polite_turn(rng: random.Random) -> Turn:
    """Greetings, thanks, farewells, questions about the model, and what it does not know."""
    slots = {"topic": rng.choice(STRANGE_TOPICS), "village": VILLAGE}
    ask, answer = rng.choice(
        (
            (HELLO, "Hello! [How can I help you|What would you like to hear|Shall I tell you a story]?"),
            ("[How are you|How do you do|Are you well]?", "I am well, thank you. [The lamps are green and the work is shared.|How can I help you?]"),
            ("[Thank you|Thanks|Thank you very much|That was nice|Great story][!|.]", "You are welcome[!|.| Shall I tell you another story?]"),
            ("[Goodbye|Bye|See you|Good night][!|.]", "Goodbye! [Come back to {village} soon.|Sleep well.|Until tomorrow.]"),
            ("[Who are you|What are you|What is your name]?", "I am the dure demo, a very small model that [tells stories of|knows] the village of {village}."),
            ("[What can you do|How can you help me|Help]?", "I can tell stories of {village}, answer questions about them, count, and add small numbers."),
            ("[Tell me about|What do you know about|Explain|I have a question about|Write an essay about] {topic}.", "I am sorry, I do not know anything about {topic}. [I only know the village of {village}.|Shall I tell you a story of {village} instead?]"),
            ("What do you think of {topic}?", "I am sorry, I cannot say anything about {topic}. I only know the village of {village}."),
        )
    )  # fmt: skip
    return expand(rng, ask, slots), expand(rng, answer, slots)


def repeat_turn(rng: random.Random) -> Turn:
    """A request to say a sentence, a line of words or numbers once more."""
    kind = rng.randrange(3)
    if kind == 0:
        line = rng.choice(write_story(rng).sentences)
    elif kind == 1:
        words = tuple(item for items in LISTS.values() for item in items)
        line = " ".join(rng.sample(words, rng.randint(1, 6)))
    else:
        line = " ".join(str(rng.randint(0, 99)) for _ in range(rng.randint(2, 8)))
    return expand(rng, "[Say|Repeat|Please repeat|Repeat after me]: ", {}) + line, line


def record_turn(rng: random.Random) -> Turn:
    """A request for a JSON object about a person or an animal."""
    if rng.random() < 0.6:
        person = rng.choice(PEOPLE)
        fields = {"name": person.name, "job": person.job, "place": person.place}
    else:
        animal = rng.choice(ANIMALS)
        fields = {"name": animal.name, "kind": animal.kind, "owner": animal.owner}
    keys = list(fields)[: rng.randint(2, 3)]
    ask = f"[Describe|Write|Give me] {fields['name']} as JSON with the keys {' and '.join(keys)}."
    return expand(rng, ask, {}), json.dumps({key: fields[key] for key in keys})


def story_turns(rng: random.Random) -> list[Turn]:
    """A request for a story, the story, and up to four questions about it."""
    theme = rng.choice(tuple(THEMES))
    length, episodes = rng.choice((("", 1), ("", 1), ("short ", 0), ("long ", rng.randint(2, 3))))
    person = rng.choice(PEOPLE)
    if rng.random() < 0.3:
        story, about = story_about(rng, person, episodes), "[{A}|the {job}|{A} the {job}]"
    else:
        story = write_story(rng, theme, None, episodes)
        about = {
            "repair": "[a {thing}|the {thing}|{A} and a {thing}|{A} and {B}|a repair|something broken]",
            "animal": "[a {animal}|{pet}|{pet} the {animal}|a lost animal|{A} and a {animal}]",
            "computer": "[computers|the five computers|{node}|a computer|{B} and a computer]",
            "harvest": "[the harvest|{crop}|{A} and the {crop}|a work party|a field]",
            "lost": "[a {lost}|something lost|{A} and a {lost}]",
        }[story.theme]
    ask = rng.choice(
        (
            f"[Tell|Please tell|Can you tell] me a {length}story about {about}.",
            f"[Write|I would like to hear|I want] a {length}story about {about}[.|, please.]",
            f"A {length}story about {about}, please.",
            f"[Tell me a {length}story.|Do you know a {length}story?]",
        )
    )
    text = story.text(rng.choice((0, 5, 6, 7))) if episodes > 1 else story.text()
    turns = [(expand(rng, ask, story.slots), text)]
    return turns + story_questions(rng, story)[: rng.choice((0, 0, 1, 2, 3, 4))]


def text_turns(rng: random.Random) -> list[Turn]:
    """A story told by the user, then questions about it."""
    story = write_story(rng, None, None, rng.choice((0, 1)))
    (ask, answer), *rest = story_questions(rng, story)[: rng.randint(1, 3)]
    lead = rng.choice(("Read this story: ", "", "Here is a story. "))
    return [(lead + story.text() + "\n\n" + ask, answer), *rest]


def name_turns(rng: random.Random) -> list[Turn]:
    """The user gives a name, later asks for it."""
    slots = {"name": rng.choice(NAMES)}
    hello = (
        expand(rng, "[Hello|Hi|Good morning], [my name is|I am|I'm] {name}.", slots),
        expand(
            rng,
            "Hello, {name}! [How can I help you?|Welcome to Solbat.|It is nice to meet you.]",
            slots,
        ),
    )
    between = [plain_turn(rng) for _ in range(rng.randint(0, 2))]
    return [hello, *between, ("What is my name?", expand(rng, "Your name is {name}.", slots))]


def role_turns(rng: random.Random) -> tuple[str, list[Turn]]:
    """A system message that gives the model a person's role, and questions to that person."""
    person = rng.choice(PEOPLE)
    slots = {"A": person.name, "job": person.job, "place": person.place, "village": VILLAGE}
    system = expand(rng, "You are {A}, the {job} of {village}.[| Answer politely.]", slots)
    pairs = [
        ("[Who are you|What is your name]?", "I am {A}, the {job} of {village}."),
        ("[What do you do|What is your job]?", "I am the {job}."),
        ("Where do you work?", "I work at the {place}."),
        (HELLO, "Hello! I am {A}. [How can I help you?|Come in.|What brings you here?]"),
    ]
    rng.shuffle(pairs)
    turns = [(expand(rng, a, slots), expand(rng, b, slots)) for a, b in pairs]
    return system, turns[: rng.randint(1, 3)]


PLAIN_TURNS: tuple[Callable[[random.Random], Turn], ...] = (
    fact_turn, fact_turn, fact_turn, list_turn, number_turn, number_turn, polite_turn, polite_turn,
    repeat_turn, record_turn,
)  # fmt: skip


def plain_turn(rng: random.Random) -> Turn:
    """A question that needs nothing said before."""
    return rng.choice(PLAIN_TURNS)(rng)


TOPICS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "weather": ("place", ("city", "place", "location"), ("sunny", "rainy", "cloudy", "windy")),
    "temperature": ("place", ("place", "room", "city", "location"), ("3 degrees", "12 degrees", "21 degrees", "30 degrees")),
    "water_level": ("place", ("place", "name"), ("low", "high", "rising", "falling")),
    "price": ("item", ("item", "product", "name"), ("2 coins", "5 coins", "8 coins", "12 coins")),
    "status": ("node", ("node", "name", "computer"), ("ready", "busy", "offline", "hot")),
    "memory": ("node", ("node", "name"), ("2 GB free", "4 GB free", "7 GB free")),
    "position": ("animal", ("name", "animal"), ("at the river", "in the barn", "on the hill")),
}  # fmt: skip
VALUES: dict[str, tuple[str, ...]] = {
    "place": ("Paris", "London", "Seoul", "Berlin", "Tokyo", "Busan", "Solbat", "Rome", "Madrid", "the mill", "the granary", "the river", "the kitchen", "the barn"),
    "item": (*TOOLS, "bread", "salt", "rice"),
    "node": COMPUTERS,
    "animal": tuple(animal.name for animal in ANIMALS),
}  # fmt: skip


def make_tool(rng: random.Random, topic: str, parameter: str) -> Message:
    """A function in OpenAI's form that looks one thing up."""
    name = rng.choice(("get", "get", "read", "check", "find", "show")) + "_" + topic
    kind: Message = {"type": "string"}
    if rng.random() < 0.5:
        kind["description"] = f"The {parameter}"
    parameters = {"type": "object", "properties": {parameter: kind}, "required": [parameter]}
    about = f"Get the {topic.replace('_', ' ')} of a {VALUES_OF[topic]}"
    return {
        "type": "function",
        "function": {"name": name, "description": about, "parameters": parameters},
    }


VALUES_OF = {topic: kind for topic, (kind, _, _) in TOPICS.items()}


def tool_dialogue(rng: random.Random) -> str:
    """A question that one of the given tools answers, the call, its result and the answer."""
    topics = rng.sample(tuple(TOPICS), rng.randint(1, 3))
    parameters = [rng.choice(TOPICS[topic][1]) for topic in topics]
    tools = [make_tool(rng, *pair) for pair in zip(topics, parameters, strict=True)]
    messages: list[Message] = [{"role": "system", "content": expand(rng, rng.choice(SYSTEMS), {})}]
    messages = messages[: rng.randint(0, 1)]
    for _ in range(rng.randint(1, 2)):
        if rng.random() < 0.2:
            messages += turn_messages([plain_turn(rng)])
            continue
        i = rng.randrange(len(topics))
        kind, _, results = TOPICS[topics[i]]
        value, result = rng.choice(VALUES[kind]), rng.choice(results)
        thing = topics[i].replace("_", " ")
        owner = "the " + value if kind == "item" else value
        where = f"{thing} {'in' if kind == 'place' else 'of'} {owner}"
        ask = f"[What is the {where}?|Tell me the {where}.|{where}?|Please look up the {where}.]"
        call = {"name": tools[i]["function"]["name"], "arguments": {parameters[i]: value}}
        content = json.dumps({topics[i]: result}) if rng.random() < 0.6 else result
        messages += [
            {"role": "user", "content": expand(rng, ask, {})},
            {"role": "assistant", "content": None, "tool_calls": [{"function": call}]},
            {"role": "tool", "content": content},
            {"role": "assistant", "content": f"The {where} is {result}."},
        ]
    template = rng.choice((TEMPLATE, TEMPLATE_ORDERED))  # servers differ in the order of keys
    return template.render(messages=messages, tools=tools)


SYSTEMS = (
    "You are a helpful assistant.",
    "You are a [friendly|polite|patient] [assistant|storyteller|helper].",
    "You tell stories of the village of Solbat.",
    "Answer [shortly|briefly|the question].",
)


def turn_messages(turns: list[Turn]) -> list[Message]:
    """Turns as messages of the user and the assistant."""
    roles = ("user", "assistant")
    return [{"role": r, "content": c} for turn in turns for r, c in zip(roles, turn, strict=True)]


def render(messages: list[Message], **options: Any) -> str:
    """The messages in the chat form, exactly as a server renders them."""
    return TEMPLATE.render(messages=messages, **options)


def thinking_dialogue(rng: random.Random) -> str:
    """A question whose answer begins with a thought between the think tokens."""
    ask, answer = plain_turn(rng)
    thought = expand(rng, rng.choice(THOUGHTS), {})
    prompt = render(
        [{"role": "user", "content": ask}], add_generation_prompt=True, enable_thinking=True
    )
    return f"{prompt}{thought}\n</think>\n\n{answer}<|im_end|>\n"


THOUGHTS = (
    "The user [asks something|has a question]. I [will answer|think I know the answer|should be brief].",
    "[Let me think|Step by step]. [This is about the village.|I have heard of this.] I will answer now.",
    "[What do I know about this|What is the best answer]? I will say it in a few words.",
)


def write_dialogue(rng: random.Random) -> str:
    """A conversation of one to about eight turns, some with a system message."""
    kind = rng.random()
    system = expand(rng, rng.choice(SYSTEMS), {}) if rng.random() < 0.3 else ""
    if kind < 0.12:
        return tool_dialogue(rng)
    if kind < 0.17:
        return thinking_dialogue(rng)
    if kind < 0.55:
        turns = story_turns(rng)
    elif kind < 0.63:
        turns = text_turns(rng)
    elif kind < 0.67:
        turns = name_turns(rng)
    elif kind < 0.72:
        system, turns = role_turns(rng)
    else:
        turns = [plain_turn(rng) for _ in range(rng.choice((1, 1, 2, 3, 5)))]
    if rng.random() < 0.15 and kind >= 0.72:
        turns += story_turns(rng)
    head: list[Message] = [{"role": "system", "content": system}] if system else []
    return render(head + turn_messages(turns))


def write_document(rng: random.Random) -> str:
    """One document: a story of any length, or a dialogue."""
    if rng.random() < 0.4:
        episodes = rng.choice((0, 1, 1, 1, 2, 2, 3))
        return write_story(rng, episodes=episodes).text(rng.choice((0, 0, 5, 7)))
    return write_dialogue(rng)


def write_drill(rng: random.Random) -> str:
    """A dialogue of words to be repeated: nothing but copying makes its answers likely."""
    words = [item for items in LISTS.values() for item in items]
    words += [word for sentence in write_story(rng).sentences for word in sentence.split()]
    turns = []
    for _ in range(rng.randint(1, 2)):
        line = " ".join(rng.choices(words, k=rng.randint(3, 24)))
        turns.append((rng.choice(("Say: ", "Repeat: ", "Repeat after me: ")) + line, line))
    return render(turn_messages(turns))


def village_words(seed: int = 0, documents: int = 2000) -> frozenset[str]:
    """The lower-case words of `documents` documents: what the model can have learned."""
    texts = (write_document(random.Random(f"{seed}/vocabulary/{i}")) for i in range(documents))
    return frozenset(word for text in texts for word in re.findall(r"[a-z]+", text.lower()))
