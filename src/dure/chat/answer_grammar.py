"""Combines the parts of an answer's grammar: reasoning first, if there is any, then what was requested.

Knows how to combine the grammars of calls, schemas and callers. Refuses to know how a model family writes
calls: its format does.
"""

from __future__ import annotations

from dure.chat.json_schema.rules import Rules, literal, sequence
from dure.chat.plan import Plan

__all__ = ["after_lead", "one_or_more", "prefixes_of"]


def after_lead(plan: Plan, body: str) -> str:
    """Return the expression of the answer `body`, after the plan's reasoning."""
    rules, opening, closing = plan.rules, plan.marks.opening, plan.marks.closing
    if plan.reasoning == "none" or not closing:
        return body
    space = rules.add("gap", "[ \\t\\n]{0,4}")
    thought = sequence(rules.without(closing), literal(closing), space)
    if plan.reasoning == "open":
        return sequence(thought, body)
    block = rules.add("reasoning", sequence(space, literal(opening), thought))
    return sequence(f"{block}?", body)


def prefixes_of(*parts: str) -> str:
    """Return a regular expression for every prefix of a text, from the empty one to the whole.

    parts: regular expressions of the text's parts, in order.
    """
    expression = ""
    for part in reversed(parts):
        expression = f"(?:{part}{expression})?"
    return expression


def one_or_more(rules: Rules, item: str, separator: str, limit: int | None) -> str:
    """Return an expression for one to `limit` items with separators; None: no limit."""
    if limit == 1:
        return item
    more = rules.add("more-calls", sequence(separator, item))
    return sequence(item, f"{more}*" if limit is None else f"{more}{{0,{limit - 1}}}")
