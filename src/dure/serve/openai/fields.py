"""What OpenAI's, llama-server's and vLLM's clients send that this server has no use for.

Knows every such field, and whether the answer depends on it. Refuses to know those that are used.
"""

from __future__ import annotations

from dure.http.unused_fields import FieldTable, Ignored, Refused

__all__ = ["ADAPTER_FIELDS", "EMBEDDING_FIELDS", "OPENAI_FIELDS"]

_TEXT_ONLY = "this server reads and writes text only"
_NO_CALLS = "only a conversation calls functions"
_NO_PEER = "this server samples otherwise"
_USE_FORMAT = "use response_format, or grammar"
_OWN_FORMATS = "the tokenizer's own rules hold"

OPENAI_FIELDS: FieldTable = {
    # Who asks, and for whom.
    "metadata": Ignored("a note for the caller's own records"),
    "user": Ignored("a note for the caller's own records"),
    "safety_identifier": Ignored("a note for the caller's own records"),
    "store": Ignored("nothing is stored here", wish=True, unless=(False,)),
    # Where and when the work is done.
    "service_tier": Ignored("there is one tier", unless=("auto", "default")),
    "priority": Ignored("the key decides"),
    "prompt_cache_key": Ignored("every prompt's prefix is cached"),
    "prompt_cache_retention": Ignored("the server decides how long a prefix is kept"),
    "prediction": Ignored("tokens are guessed ahead without it"),
    "id_slot": Ignored("a request goes where its prefix is"),
    "n_keep": Ignored("nothing is ever shifted out of the context"),
    "keep_alive": Ignored("the model stays loaded", wish=True),
    "num_ctx": Ignored("the context is set when the server starts", wish=True),
    "backend_sampling": Ignored(
        "the samples are the same wherever they are drawn", unless=(False,)
    ),
    "stream_options.include_obfuscation": Ignored(
        "streams are not padded", wish=True, unless=(False,)
    ),
    "stream_options.continuous_usage_stats": Ignored(
        "usage comes at the end", wish=True, unless=(False,)
    ),
    # Wishes about the style of an answer, which no model here knows.
    "verbosity": Ignored(
        "a wish about length that models here do not know: say in the prompt how long to write",
        wish=True,
        unless=("medium",),
    ),
    "reasoning.exclude": Ignored("thoughts come apart from the answer", wish=True, unless=(False,)),
    "reasoning.max_tokens": Ignored(
        "thoughts have no limit of their own: use max_tokens", wish=True
    ),
    "reasoning.summary": Ignored(
        "reasoning is given in full, not summarized", wish=True, unless=("auto",)
    ),
    # In messages and tools.
    "*.cache_control": Ignored("every prompt's prefix is cached"),
    "messages.annotations": Ignored("they belong to an earlier answer"),
    "messages.audio": Refused(_TEXT_ONLY),
    "messages.id": Ignored("messages need no names"),
    "messages.prefix": Ignored("a last message of the assistant's is continued anyway"),
    "messages.reasoning_details": Ignored("reasoning_content is read"),
    "messages.provider_specific_fields": Ignored("it belongs to an earlier answer"),
    "messages.tool_calls.index": Ignored("calls are taken in their order"),
    # What would change the answer.
    "audio": Refused(_TEXT_ONLY),
    "modalities": Refused(_TEXT_ONLY, unless=(["text"],)),
    "web_search_options": Refused("this server searches nothing"),
    "functions": Refused(_NO_CALLS, "use /v1/chat/completions", unless=([],)),
    "function_call": Refused(_NO_CALLS, "use /v1/chat/completions", unless=("none", "auto")),
    "reasoning_format": Refused(
        "thoughts are always told apart from the answer", unless=("auto", "deepseek")
    ),
    "thinking_budget_tokens": Refused("thoughts have no limit of their own", unless=(-1,)),
    "adaptive_target": Refused(_NO_PEER, unless=(-1,)),
    "dynatemp_range": Refused(_NO_PEER, "use temperature", unless=(0,)),
    "dynatemp_exponent": Ignored("it has a meaning only with dynatemp_range"),
    "samplers": Refused("the order of the samplers is llama.cpp's"),
    "top_a": Refused(_NO_PEER, "use min_p", unless=(0,)),
    "n_discard": Refused("nothing is ever shifted out of the context", unless=(0,)),
    "n_indent": Refused("this server does not count blanks", unless=(0,)),
    "min_keep": Refused(_NO_PEER, unless=(0,)),
    "min_tokens": Refused(_NO_PEER, "use ignore_eos or logit_bias", unless=(0,)),
    "t_max_predict_ms": Refused("an answer has no limit of time", "use max_tokens", unless=(-1, 0)),
    "stop_token_ids": Refused("an answer is stopped by texts", "use stop", unless=([],)),
    "bad_words": Refused(_NO_PEER, "use logit_bias", unless=([],)),
    "allowed_token_ids": Refused(_NO_PEER, "use logit_bias or grammar"),
    "use_beam_search": Refused(_NO_PEER, unless=(False,)),
    "length_penalty": Refused("there is no beam search", unless=(1, 0)),
    "prompt_logprobs": Refused(
        "a prompt's logprobs come with its echo", "use echo and logprobs", unless=(0,)
    ),
    "guided_json": Refused("this is not supported", _USE_FORMAT),
    "guided_regex": Refused("this is not supported", _USE_FORMAT),
    "guided_choice": Refused("this is not supported", _USE_FORMAT),
    "guided_grammar": Refused("this is not supported", _USE_FORMAT),
    "structured_outputs": Refused("this is not supported", _USE_FORMAT),
    "skip_special_tokens": Refused(_OWN_FORMATS, unless=(True,)),
    "add_special_tokens": Refused(_OWN_FORMATS),
    "include_stop_str_in_output": Refused("a stop is never part of the answer", unless=(False,)),
}

EMBEDDING_FIELDS: FieldTable = {
    "user": Ignored("a note for the caller's own records"),
    "keep_alive": Ignored("the model stays loaded", wish=True),
    "embd_normalize": Refused("every vector has a Euclidean length of 1", unless=(2,)),
    "truncate": Ignored("what does not fit is refused, never shortened", wish=True),
    "input_type": Refused("texts are embedded as they are", "write the model's prefix yourself"),
    "task": Refused("texts are embedded as they are", "write the model's prefix yourself"),
}

ADAPTER_FIELDS: FieldTable = {
    "lora_int_id": Ignored("the server numbers adapters itself"),
    "base_model_name": Ignored("one model is served"),
    "is_3d_lora_weight": Ignored("the file says it"),
}
