#!/bin/sh
# llguidance allows numbers that a schema's bounds exclude.
#
# Its page on JSON schemas lists minimum, maximum, exclusiveMinimum and exclusiveMaximum as supported, for
# integers and numbers, and says that it either follows the schema or gives an error. But
# - an open lower bound that is a whole number is itself allowed where the upper bound has the same whole
#   part: {"exclusiveMinimum": 0, "maximum": 0.5} allows 0, though {"exclusiveMinimum": 0} alone does not;
#   below zero the same holds for the upper bound;
# - bounds of integers beyond 2^53 are rounded to a double: "minimum": 9007199254740993 allows ...992.
#
# Exits 0 while this is so, 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet llguidance==1.9.1
"$folder/venv/bin/python" - <<'PYTHON'
import json
import sys

import llguidance

ZERO_TO_HALF = {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}
BELOW_TWO = {"type": "number", "exclusiveMinimum": -2.5, "exclusiveMaximum": -2}
CASES = [  # schema, text, whether the schema allows it, whether llguidance 1.9.1 does
    ({"type": "number", "exclusiveMinimum": 0}, "0", False, False),
    ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "0", False, False),
    (ZERO_TO_HALF, "0.25", True, True),
    (ZERO_TO_HALF, "0.0", False, False),
    (ZERO_TO_HALF, "0", False, True),
    (BELOW_TWO, "-2", False, True),
    ({"type": "integer", "minimum": 2**53 + 1}, str(2**53), False, True),
    ({"type": "integer", "maximum": 2**53 + 1}, str(2**53 + 1), True, False),
]
tokenizer = llguidance.LLTokenizer("byte")
print(llguidance.get_version())
changed = False
for schema, text, right, known in CASES:
    grammar = llguidance.LLMatcher.grammar_from_json_schema(schema)
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    data = list(text.encode())
    allowed = matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()
    told = "allowed" if allowed else "refused"
    print(f"{json.dumps(schema)}: {text} is {told}, {'rightly' if allowed == right else 'WRONGLY'}")
    changed |= allowed != known
sys.exit(changed)
PYTHON
