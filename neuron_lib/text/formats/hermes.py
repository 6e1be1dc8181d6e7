"""JSON between `<tool_call>` and `</tool_call>`: Hermes, Qwen 2.5 and 3, Granite 4, SmolLM3, EXAONE 4, and others."""

import re
from dataclasses import replace
from typing import Final

from neuron_lib.text.formats.bare import BARE, FENCED, known_only, parse_value, value_behind
from neuron_lib.text.formats.blocks import PairBlock, ValueBlock
from neuron_lib.text.formats.code_tags import FUNCTION_TAG
from neuron_lib.text.formats.json_calls import ends_inside_value, json_pair
from neuron_lib.text.formats.marked import MarkedFormat
from neuron_lib.text.formats.rules import json_object_rules
from neuron_lib.text.formats.spelling import json_speller
from neuron_lib.text.formats.tool_format import Trigger

__all__ = ("GENERIC", "HERMES", "JSON", "JSON_LIST")

_JSON_KEYS: Final = tuple(
    re.compile(rf"""\\?["\'](?:{key})\\?["\']""") for key in ("name|tool_name", "arguments|parameters")
)
_WHOLE_OBJECT: Final = re.compile(r"<tool_call>[^<]{0,60}\|\s*tojson")
_LIST: Final = re.compile(r"""\[\s*\{\s*\\?["\']name\\?["\']""")

_OTHER_TAGS: Final = tuple(
    PairBlock(opens=(f"<{tag}>",), closes=(f"</{tag}>",), parse=known_only(parse_value), ends_inside=ends_inside_value)
    for tag in ("tool_calls", "function_call", "function_calls", "TOOLCALL", "tools", "tool", "json", "JSON")
)
"""Tags that models write although they were asked for another one."""


def _asks_for_json(template: str) -> bool:
    """Whether the template spells the keys of a call in JSON."""
    return all(key.search(template) for key in _JSON_KEYS)


def _recognises(template: str) -> bool:
    if "<tool_call>" not in template:
        return False
    return "<function=" in template or _asks_for_json(template) or _WHOLE_OBJECT.search(template) is not None


_KNOWN_FUNCTION_TAG: Final = replace(FUNCTION_TAG, parse=known_only(FUNCTION_TAG.parse))

HERMES: Final = MarkedFormat(
    name="hermes",
    blocks=(json_pair("<tool_call>", closes=("</tool_call>",)), *_OTHER_TAGS, _KNOWN_FUNCTION_TAG, BARE, FENCED),
    recognises=_recognises,
    own_triggers=(Trigger("<tool_call>"),),
    spell=json_speller(before="<tool_call>\n", after="\n</tool_call>", between="\n"),
    write_rules=json_object_rules(before="<tool_call>\n", after="\n</tool_call>", between="\n"),
)

GENERIC: Final = replace(HERMES, name="generic", recognises=lambda _template: False)
"""For a template that shows no tools. `tool_prompt.py` asks for calls in this format."""

JSON: Final = MarkedFormat(
    name="json",
    blocks=HERMES.blocks,
    recognises=_asks_for_json,
    own_triggers=(Trigger('{"name": "', is_first=True),),
    write_rules=json_object_rules(between="\n"),
)
"""For a template that shows tools and asks for JSON without markers."""

JSON_LIST: Final = MarkedFormat(
    name="json_list",
    blocks=(
        *(block for block in HERMES.blocks if block is not FENCED),
        replace(FENCED, is_first=False),
        ValueBlock(opens=("[TOOL_CALLS]",), begins=value_behind(r"\s*"), parse=known_only(parse_value)),
    ),
    recognises=lambda template: _asks_for_json(template) and _LIST.search(template) is not None,
    own_triggers=(Trigger('[{"name": "', is_first=True),),
    write_rules=json_object_rules(begin="[", between=", ", end="]"),
)
"""The same in a list, as the xLAM models write it, perhaps in a code fence behind a text."""
