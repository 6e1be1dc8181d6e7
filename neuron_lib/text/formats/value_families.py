"""The families that write a value in brackets behind a marker. The value ends by itself, also without a marker."""

import re
from typing import Final

from neuron_lib.text.formats.bare import BARE, FENCED, known_only, parse_value, value_behind
from neuron_lib.text.formats.blocks import ValueBlock
from neuron_lib.text.formats.json_calls import parse_tool_calls
from neuron_lib.text.formats.marked import MarkedFormat, spells
from neuron_lib.text.formats.rules import json_object_rules
from neuron_lib.text.formats.spelling import json_speller
from neuron_lib.text.formats.tool_format import ParsedCall, Tools, Trigger
from neuron_lib.text.tag_splitter import Markers

__all__ = ("COMMAND_R_PLUS", "FIREFUNCTION", "GIGACHAT_3", "GRANITE_3", "PHI_4_MINI")

_TOOL_CALL: Final = ValueBlock(
    opens=("<|tool_call|>",),
    begins=value_behind(r"\s*"),
    parse=parse_value,
    tails=("<|/tool_call|>", "</tool_call>"),
)
_FUNCTOOLS: Final = ValueBlock(
    opens=("functools",), begins=value_behind(r"\s*"), parse=parse_value, may_be_call=lambda value, _: value[0] == "["
)

GRANITE_3: Final = MarkedFormat(
    name="granite3",
    blocks=(
        _TOOL_CALL,
        ValueBlock(
            opens=("<tool_call>", "<function_call>"),
            begins=value_behind(r"\s*"),
            parse=parse_value,
            tails=("</tool_call>", "</function_call>"),
        ),
        BARE,
    ),
    answer=Markers("<response>", "</response>"),
    recognises=spells("<|tool_call|>"),
    own_triggers=(Trigger("<|tool_call|>"),),
    write_rules=json_object_rules(begin="<|tool_call|>[", between=", ", end="]"),
    spell=json_speller(begin="<|tool_call|>[", between=", ", end="]"),
)
"""Granite 3: a list behind `<|tool_call|>`. An answer behind reasoning stands between markers too."""

PHI_4_MINI: Final = MarkedFormat(
    name="phi4_mini",
    blocks=(_TOOL_CALL, _FUNCTOOLS, BARE, FENCED),
    recognises=spells("<|tool|>", "<|/tool|>"),
    own_triggers=(Trigger("<|tool_call|>"),),
    write_rules=json_object_rules(begin="<|tool_call|>[", between=", ", end="]<|/tool_call|>"),
    spell=json_speller(begin="<|tool_call|>[", between=", ", end="]<|/tool_call|>"),
)

FIREFUNCTION: Final = MarkedFormat(
    name="firefunction",
    blocks=(_FUNCTOOLS, BARE),
    recognises=spells("functools["),
    own_triggers=(Trigger("functools["),),
    write_rules=json_object_rules(begin="functools[", between=", ", end="]"),
)

GIGACHAT_3: Final = MarkedFormat(
    name="gigachat3",
    blocks=(
        ValueBlock(
            opens=("<|function_call|>", "function call<|role_sep|>"), begins=value_behind(r"\s*"), parse=parse_value
        ),
    ),
    more_shown=("<|role_sep|>",),
    dropped=("<|message_sep|>",),
    recognises=spells("<|role_sep|>", "<|message_sep|>"),
    own_triggers=(Trigger("<|function_call|>"),),
    write_rules=json_object_rules(before="<|function_call|>"),
)

_ACTION_HEAD: Final = r"\s*(?:`{1,3}(?:j(?:s(?:on?)?)?)?)?\s*"


def _parse_actions(body: str, tools: Tools) -> tuple[ParsedCall, ...]:
    return parse_tool_calls(re.sub(_ACTION_HEAD, "", body, count=1), tools)


COMMAND_R_PLUS: Final = MarkedFormat(
    name="command_r_plus",
    blocks=(
        ValueBlock(
            opens=("Action:",),
            begins=value_behind(_ACTION_HEAD),
            parse=known_only(_parse_actions),
            may_be_call=lambda value, _: value[0] == "[",
            tails=("```",),
        ),
        FENCED,
        BARE,
    ),
    recognises=spells("Action:", '"tool_name"'),
    own_triggers=(Trigger("Action:"),),
    write_rules=json_object_rules(
        begin="Action:\n```json\n[\n    ",
        between=",\n    ",
        end="\n]\n```",
        name_key="tool_name",
        arguments_key="parameters",
    ),
)
"""Command R and R+: a list in a code fence behind `Action:`."""
