"""Functionary: `<function=NAME>{…}</function>`, or `>>>NAME` on a line before the arguments."""

import re
from typing import Final

from neuron_lib.text.formats.arguments import parse_arguments
from neuron_lib.text.formats.bare import known_only, value_behind
from neuron_lib.text.formats.blocks import ValueBlock
from neuron_lib.text.formats.marked import MarkedFormat, spells
from neuron_lib.text.formats.rules import named_rules
from neuron_lib.text.formats.tool_format import ParsedCall

__all__ = ("FUNCTIONARY_3_1", "FUNCTIONARY_3_2", "FUNCTION_TAG")

_TAG_HEAD: Final = re.compile(r"([\w.\-]+)>\s*")
_LINE_HEAD: Final = re.compile(r"([\w.\-]+)\n\s*")


def _parse_behind(head: re.Pattern[str], body: str) -> tuple[ParsedCall, ...]:
    name = head.match(body)
    call = None if name is None else parse_arguments(name[1], body[name.end() :])
    return () if call is None else (call,)


FUNCTION_TAG: Final = ValueBlock(
    opens=("<function=",),
    begins=value_behind(r"[\w.\-]*>?\s*"),
    parse=lambda body, _tools: _parse_behind(_TAG_HEAD, body),
    may_be_call=lambda value, _tools: value[0] == "{",
    tails=("</function>",),
)
"""`<function=NAME>{…}</function>`."""

FUNCTIONARY_3_1: Final = MarkedFormat(
    name="functionary_3_1",
    blocks=(FUNCTION_TAG,),
    recognises=lambda template: "<function=" in template and "<parameter" not in template,
    write_rules=named_rules(before="<function=", behind_name=">", after="</function>"),
)


FUNCTIONARY_3_2: Final = MarkedFormat(
    name="functionary_3_2",
    blocks=(
        ValueBlock(
            opens=(">>>",),
            begins=value_behind(r"[\w.\-]*\n?\s*"),
            parse=known_only(lambda body, _tools: _parse_behind(_LINE_HEAD, body)),
            may_be_call=lambda value, _tools: value[0] == "{",
        ),
    ),
    dropped=(">>>all\n",),
    prompt_end=">>>",
    recognises=spells(">>>all", ">>>${recipient}"),
    own_triggers=(),  # a call begins with its name, which may be any
    write_rules=named_rules(before="", behind_name="\n", between=">>>"),
)
"""A text for the user stands behind `>>>all`. The prompt ends in `>>>`."""
