"""Functionary: `<function=NAME>{…}</function>`, or `>>>NAME` on a line before the arguments."""

import re
from typing import Final

from neuron_lib.text.formats.arguments import as_call, names_of, parse_arguments
from neuron_lib.text.formats.bare import value_behind
from neuron_lib.text.formats.blocks import PairBlock, ValueBlock
from neuron_lib.text.formats.code_tags import CODE_TOOLS, FUNCTION_TAG, PYTHON_TAG
from neuron_lib.text.formats.marked import MarkedFormat, spells
from neuron_lib.text.formats.rules import named_rules
from neuron_lib.text.formats.tool_format import ParsedCall, Tools, Trigger

__all__ = ("FUNCTIONARY_3_1", "FUNCTIONARY_3_2")

_MARK: Final = ">>>"
_HEAD: Final = re.compile(r"([\w.\-]+)\n\s*")

FUNCTIONARY_3_1: Final = MarkedFormat(
    name="functionary_3_1",
    blocks=(FUNCTION_TAG, PYTHON_TAG),
    recognises=lambda template: "<function=" in template and "<parameter" not in template,
    own_triggers=(Trigger("<function="),),
    write_rules=named_rules(before="<function=", behind_name=">", after="</function>"),
)


def _parse_call(body: str, tools: Tools) -> tuple[ParsedCall, ...]:
    """The call of a tool of the request, whose name stands on the first line."""
    head = _HEAD.match(body)
    if head is None or head[1] not in names_of(tools):
        return ()
    call = parse_arguments(head[1], body[head.end() :])
    code = body[head.end() :].rstrip()
    if call is None and head[1] in CODE_TOOLS and code:
        call = as_call(head[1], {"code": code})
    return () if call is None else (call,)


def _parse_calls(body: str, tools: Tools) -> tuple[ParsedCall, ...]:
    """The call of a tool that runs code, and the calls behind it."""
    calls = [_parse_call(each, tools) for each in body.split(_MARK)[1:]]
    return tuple(call for each in calls for call in each) if all(calls) else ()


FUNCTIONARY_3_2: Final = MarkedFormat(
    name="functionary_3_2",
    blocks=(
        ValueBlock(
            opens=(_MARK,),
            begins=value_behind(r"[\w.\-]*\n?\s*"),
            parse=_parse_call,
            may_be_call=lambda value, _tools: value[0] == "{",
        ),
        PairBlock(
            opens=tuple(f"{_MARK}{name}\n" for name in CODE_TOOLS),
            closes=("<|eot_id|>", "<|eom_id|>"),
            parse=_parse_calls,
            keeps_opening=True,
            may_be_any_text=True,
        ),
    ),
    dropped=(f"{_MARK}all\n",),
    prompt_end=_MARK,
    recognises=spells(">>>all", ">>>${recipient}"),
    own_triggers=(),  # a call begins with its name, which may be any
    write_rules=named_rules(behind_name="\n", between=_MARK),
)
"""A text for the user stands behind `>>>all`. The prompt ends in `>>>`."""
