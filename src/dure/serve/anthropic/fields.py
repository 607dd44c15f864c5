"""What clients of Anthropic's API send that this server has no use for.

Knows every such field, and whether the answer depends on it. Refuses to know those that are used.
"""

from __future__ import annotations

from dure.http.unused_fields import FieldTable, Ignored, Refused

__all__ = ["ANTHROPIC_FIELDS"]

ANTHROPIC_FIELDS: FieldTable = {
    "metadata": Ignored("a note for the caller's own records"),
    "service_tier": Ignored("there is one tier", unless=("auto", "standard_only")),
    "speed": Ignored("there is one speed", wish=True, unless=("standard",)),
    "inference_geo": Ignored("the model runs on your own machines"),
    "betas": Ignored("what a body may say is the same for every version"),
    "anthropic_version": Ignored("what a body may say is the same for every version"),
    "context_management": Ignored("a conversation is read as it is sent", wish=True),
    "output_config.task_budget": Ignored("use max_tokens", wish=True),
    "safeguards": Ignored("they are hints to Anthropic's own classifiers", wish=True),
    "mcp_servers": Refused("this server calls no other servers", unless=([],)),
    "container": Refused("this server runs no programs"),
    "*.cache_control": Ignored("every prompt's prefix is cached"),
    "messages.output_config": Ignored("how much to think holds for the whole request", wish=True),
    "messages.id": Ignored("messages need no names"),
    "messages.content.citations": Ignored("they belong to an earlier answer"),
    "messages.content.caller": Ignored("it belongs to an earlier answer"),
    "messages.content.toolset_name": Ignored("tools are told apart by their names"),
    "messages.content.signature": Ignored("thoughts are not signed here"),
    "messages.content.content.citations": Ignored("they belong to an earlier answer"),
    "system.citations": Ignored("answers cite nothing", wish=True),
    "tools.eager_input_streaming": Ignored("arguments are always streamed as they come"),
    "tools.allowed_callers": Ignored(
        "the model calls every tool itself", wish=True, unless=(["direct"],)
    ),
    "tools.input_examples": Ignored("the model is shown the schema", wish=True),
}
