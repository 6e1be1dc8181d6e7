"""A small real model that says what it is told: the demo model with markers in its vocabulary and a template of ours.

If the last user message begins with `ECHO `, the template shows the rest of that message as three earlier replies. A
greedy reply then repeats that text. `[TC]` and `[/TC]` stand for the markers of a tool call, `[TH]` and `[/TH]` for
those of reasoning. So a test decides what a real engine, real sampling and real HTTP bring to a real client.
"""

from pathlib import Path
from typing import Final

import gguf
import numpy as np

from benchmarks.subject import model_path

__all__ = ("TEMPLATE", "write_scripted_model")

_SPARE: Final = 7
"""The first of four tokens that the demo model was never trained on."""
_MARKERS: Final = {"<tool_call>": "[[", "</tool_call>": "]]", "<think>": "((", "</think>": "))"}
"""Each marker, with the short text whose row of the embedding it gets. The model can repeat only what it knows."""

TEMPLATE: Final = """\
{%- macro said(text) -%}
{{- text | replace('[TC]', '<tool_call>') | replace('[/TC]', '</tool_call>') | replace('[TH]', '<think>') | \
replace('[/TH]', '</think>') -}}
{%- endmacro -%}
{%- if tools -%}
{{- '<|im_start|>system\\nYou may call these functions:\\n' -}}
{%- for tool in tools -%}{{- tool | tojson + '\\n' -}}{%- endfor -%}
{{- 'A call is written so: <tool_call>\\n{"name": <name>, "arguments": <object>}\\n</tool_call><|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' -}}
{%- elif message.role == 'user' and loop.last and message.content.startswith('ECHO ') -%}
{%- for _ in range(3) -%}
{{- '<|im_start|>user\\nAgain, exactly the same.<|im_end|>\\n<|im_start|>assistant\\n' -}}
{{- said(message.content[5:]) + '<|im_end|>\\n' -}}
{%- endfor -%}
{{- '<|im_start|>user\\nAgain, exactly the same.<|im_end|>\\n' -}}
{%- else -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.reasoning_content -%}
{{- '<think>' + message.reasoning_content + '</think>' -}}
{%- endif -%}
{{- message.content -}}
{%- for call in message.tool_calls or [] -%}
{{- '<tool_call>\\n{"name": ' + call.function.name | tojson + ', "arguments": ' -}}
{{- call.function.arguments | tojson + '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def write_scripted_model(path: Path) -> Path:
    """Write the model to `path`, about 90 MB. Takes about a second."""
    reader = gguf.GGUFReader(model_path())
    tokens: list[str] = reader.fields["tokenizer.ggml.tokens"].contents()
    for place, marker in enumerate(_MARKERS, start=_SPARE):
        tokens[place] = marker
    writer = gguf.GGUFWriter(path, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        contents = field.contents()
        if name == "tokenizer.ggml.tokens":
            contents = tokens
        elif name == "tokenizer.chat_template":
            contents = TEMPLATE
        item = field.types[-1] if field.types[0] is gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, contents, field.types[0], sub_type=item)
    for tensor in reader.tensors:
        data = tensor.data
        if tensor.name == "token_embd.weight":
            data = np.array(data)
            for place, known in enumerate(_MARKERS.values(), start=_SPARE):
                data[place] = data[tokens.index(known)]
        writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
