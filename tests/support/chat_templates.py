"""Chat templates in the conventions of the families: short ones, whose text a test can foresee."""

from __future__ import annotations

LLAMA3 = """{{- bos_token -}}
{%- for m in messages -%}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' -}}
{%- if m.tool_calls -%}
{%- if m.tool_calls | length != 1 -%}{{- raise_exception('one call at a time') -}}{%- endif -%}
{{- '{"name": "' + m.tool_calls[0].function.name + '", "parameters": ' -}}
{{- m.tool_calls[0].function.arguments | tojson + '}' -}}
{%- else -%}{{- m.content -}}{%- endif -%}
{{- '<|eot_id|>' -}}
{%- if loop.first and tools -%}{{- tools | tojson(indent=2) -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}"""
GEMMA = """{{- bos_token -}}
{%- for m in messages -%}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}
{{- raise_exception('roles must alternate') -}}{%- endif -%}
{{- '<start_of_turn>' + m.role + '\\n' + m.content | trim + '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}"""
HARMONY = """{{- '<|start|>system<|message|>Reasoning: ' + (reasoning_effort or 'medium') + '<|end|>' -}}
{%- for m in messages -%}
{%- if m.role == 'system' -%}
{{- '<|start|>developer<|message|>' + m.content -}}
{%- for t in tools or [] -%}{{- t.function.name -}}{%- endfor -%}{{- '<|end|>' -}}
{%- elif m.tool_calls -%}
{{- '<|start|>assistant to=functions.' + m.tool_calls[0].function.name + '<|channel|>commentary json' -}}
{{- '<|message|>' + m.tool_calls[0].function.arguments | tojson + '<|call|>' -}}
{%- elif m.role == 'assistant' -%}
{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' -}}
{%- else -%}{{- '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' -}}{%- endif -%}
{%- endfor -%}
{%- for t in tools or [] -%}{{- t.function.name -}}{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start|>assistant' -}}{%- endif -%}"""
CODER = """{%- for m in messages -%}
{{- '<|im_start|>' + m.role + '\\n' + m.content -}}
{%- for c in m.tool_calls or [] -%}
{{- '\\n<tool_call>\\n<function=' + c.function.name + '>\\n' -}}
{%- for name, value in c.function.arguments | items -%}
{{- '<parameter=' + name + '>\\n' + value | string + '\\n</parameter>\\n' -}}
{%- endfor -%}{{- '</function>\\n</tool_call>' -}}
{%- endfor -%}{{- '<|im_end|>\\n' -}}{%- endfor -%}
{%- for t in tools or [] -%}{{- t.function.name -}}{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""
PARTS = """{%- for m in messages -%}{{- m.role + ': ' -}}
{%- for part in m.content -%}{%- if part.type == 'text' -%}{{- part.text -}}{%- endif -%}{%- endfor -%}
{{- '\\n' -}}{%- endfor -%}assistant: """
R1 = """{%- for m in messages -%}
{{- m.role + ': ' + m.content.split('</think>')[-1] + '\\n' -}}{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'assistant: <think>\\n' -}}{%- endif -%}"""
