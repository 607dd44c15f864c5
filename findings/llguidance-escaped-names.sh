#!/bin/sh
# llguidance lets a listed property be written twice, the second time with any value.
#
# Its page on JSON schemas says that the properties listed in `properties` "are enforced uniquely, in given
# order", whatever `additionalProperties` says. But the names of additional properties may hold escapes of
# any character, also where strings may not (`json_allow_general_unicode_escapes` is off), and are compared
# with the listed names as they are written. So "\u0061b" passes for a name other than "ab": every JSON
# reader then has an "ab" that breaks the schema.
#
# Exits 0 while this is so, 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet llguidance==1.9.1 jsonschema==4.25.1
"$folder/venv/bin/python" - <<'PYTHON'
import json
import sys

import jsonschema
import llguidance

SCHEMA = {
    "type": "object",
    "properties": {"ab": {"type": "null"}},
    "required": ["ab"],
    "additionalProperties": True,
}
CASES = [  # schema, text, whether llguidance 1.9.1 allows it
    (SCHEMA, '{"ab":null,"other":7}', True),
    (SCHEMA, '{"ab":7}', False),
    (SCHEMA, '{"ab":null,"ab":7}', False),
    (SCHEMA, '{"ab":null,"\\u0061b":7}', True),
    ({"type": "string"}, '"\\u0061b"', False),
]
tokenizer = llguidance.LLTokenizer("byte")
print(llguidance.get_version())
changed = False
for schema, text, known in CASES:
    grammar = llguidance.LLMatcher.grammar_from_json_schema(schema)
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    data = list(text.encode())
    allowed = matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()
    valid = jsonschema.Draft202012Validator(schema).is_valid(json.loads(text))
    print(f"{text}: {'allowed' if allowed else 'refused'}; reads as {json.loads(text)}, ", end="")
    print("which follows the schema" if valid else "which BREAKS the schema")
    changed |= allowed != known
sys.exit(changed)
PYTHON
