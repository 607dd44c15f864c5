"""What clients of OpenAI's Responses API send that this server has no use for.

Knows every such field, and whether the answer depends on it. Refuses to know those that are used, or
repeated in the response.
"""

from __future__ import annotations

from dure.http.unused_fields import FieldTable, Ignored, Refused

__all__ = ["RESPONSES_FIELDS"]

_NOTHING_STORED = "nothing is stored here"
_WHOLE = "send the whole conversation in input"
_EARLIER = "it belongs to an earlier answer"

RESPONSES_FIELDS: FieldTable = {
    "store": Ignored(_NOTHING_STORED, wish=True, unless=(False,)),
    "service_tier": Ignored("there is one tier", unless=("auto", "default")),
    "prompt_cache_retention": Ignored("the server decides how long a prefix is kept"),
    "truncation": Ignored(
        "input that does not fit is refused, never shortened", wish=True, unless=("disabled",)
    ),
    "context_management": Ignored("a conversation is read as it is sent", wish=True),
    "client_metadata": Ignored("a note for the caller's own records"),
    "max_tool_calls": Ignored("it counts OpenAI's own tools, of which there are none"),
    "stream_options": Ignored(
        "streams are not padded", wish=True, unless=({}, {"include_obfuscation": False})
    ),
    "text.verbosity": Ignored(
        "models here do not know it: say in instructions how long to write", wish=True
    ),
    "reasoning.summary": Ignored(
        "reasoning is given in full, not summarized", wish=True, unless=("auto",)
    ),
    "reasoning.generate_summary": Ignored(
        "reasoning is given in full, not summarized", wish=True, unless=("auto",)
    ),
    "reasoning.context": Ignored("reasoning that is handed back is read", wish=True),
    "input.id": Ignored("items need no names"),
    "input.status": Ignored(_EARLIER),
    "input.phase": Ignored(_EARLIER),
    "input.caller": Ignored(_EARLIER),
    "input.namespace": Ignored(_EARLIER),
    "input.content.annotations": Ignored(_EARLIER),
    "input.content.logprobs": Ignored(_EARLIER),
    "input.output.annotations": Ignored(_EARLIER),
    "input.output.logprobs": Ignored(_EARLIER),
    "tools.defer_loading": Ignored("the model is shown every tool", wish=True),
    "background": Refused("answers are not kept", "use stream", unless=(False,)),
    "previous_response_id": Refused(_NOTHING_STORED, _WHOLE),
    "conversation": Refused(_NOTHING_STORED, _WHOLE),
    "prompt": Refused(_NOTHING_STORED, "send the prompt's text in instructions and input"),
}
