"""JSON between `<tool_call>` and `</tool_call>`: Hermes, Qwen 2.5 and 3, Granite 4, SmolLM3, Falcon-H1, EXAONE 4, and many more."""

import re
from typing import Final

from neuron_lib.text.formats.blocks import PairBlock
from neuron_lib.text.formats.json_calls import ends_inside_value, parse_tool_calls
from neuron_lib.text.formats.marked import MarkedFormat
from neuron_lib.text.formats.rules import json_object_rules

__all__ = ("HERMES",)

_JSON_KEYS: Final = tuple(re.compile(rf"""\\?["']{key}\\?["']""") for key in ("name", "arguments"))
_WHOLE_OBJECT: Final = re.compile(r"<tool_call>[^<]{0,60}\|\s*tojson")


def _recognises(template: str) -> bool:
    if "<tool_call>" not in template:
        return False
    return all(key.search(template) for key in _JSON_KEYS) or _WHOLE_OBJECT.search(template) is not None


HERMES: Final = MarkedFormat(
    name="hermes",
    blocks=(
        PairBlock(
            opens=("<tool_call>",), closes=("</tool_call>",), parse=parse_tool_calls, ends_inside=ends_inside_value
        ),
    ),
    recognises=_recognises,
    write_rules=json_object_rules(begin="", before="<tool_call>\n", after="\n</tool_call>", between="\n", end=""),
)
