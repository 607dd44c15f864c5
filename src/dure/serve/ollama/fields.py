"""What Ollama's clients send that this server has no use for.

Knows every such field, and whether the answer depends on it. Refuses to know those that are used.
"""

from __future__ import annotations

from dure.http.unused_fields import FieldTable, Ignored, Refused

__all__ = ["OLLAMA_FIELDS"]

_AT_START = "it is set when the server starts"

OLLAMA_FIELDS: FieldTable = {
    "truncate": Ignored(
        "what does not fit the context is refused, never shortened", wish=True, unless=(False,)
    ),
    "shift": Ignored(
        "a full context ends the answer, it is never shifted", wish=True, unless=(False,)
    ),
    "options.num_keep": Ignored("a full context ends the answer, it is never shifted"),
    "options.num_batch": Ignored(_AT_START, wish=True),
    "options.num_gpu": Ignored(_AT_START, wish=True),
    "options.main_gpu": Ignored(_AT_START, wish=True),
    "options.num_thread": Ignored(_AT_START, wish=True),
    "options.numa": Ignored(_AT_START, wish=True, unless=(False,)),
    "options.low_vram": Ignored(_AT_START, wish=True, unless=(False,)),
    "options.f16_kv": Ignored(_AT_START, wish=True, unless=(True,)),
    "options.use_mmap": Ignored(_AT_START, wish=True),
    "options.use_mlock": Ignored(_AT_START, wish=True),
    "options.logits_all": Ignored("ask for logprobs", wish=True, unless=(False,)),
    "options.vocab_only": Refused("there would be no answer", unless=(False,)),
    "options.embedding_only": Refused("there would be no answer", unless=(False,)),
    "options.tfs_z": Refused("it is not supported", "use min_p or top_p", unless=(1,)),
    "options.penalize_newline": Refused("a line's end is a token as any other", unless=(True,)),
    "messages.tool_calls.type": Ignored("functions are the only kind"),
    "messages.tool_calls.function.index": Ignored("calls are taken in their order"),
    "messages.tool_calls.function.description": Ignored("tools describe themselves"),
    "suffix": Refused("this server fills no gaps for this API", unless=("",)),
    "template": Refused("it is not supported", "use raw with a prompt in full", unless=("",)),
    "context": Refused("it is not supported", "use /api/chat with the messages", unless=([],)),
}
