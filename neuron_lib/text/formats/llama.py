"""Llama 3 and 4: JSON or a list of Python calls at the begin of the answer, also behind a marker."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from neuron_lib.text.formats.arguments import as_call, names_of
from neuron_lib.text.formats.bare import BARE, FENCED, known_only
from neuron_lib.text.formats.blocks import PairBlock
from neuron_lib.text.formats.functionary import FUNCTION_TAG
from neuron_lib.text.formats.json_calls import parse_tool_calls
from neuron_lib.text.formats.marked import MarkedFormat
from neuron_lib.text.formats.python_calls import ends_inside_string, parse_python_calls
from neuron_lib.text.formats.rules import json_object_rules, python_rules
from neuron_lib.text.formats.tool_format import ParsedCall, Tools, Trigger

__all__ = ("LLAMA_JSON", "LLAMA_PYTHONIC")

_LIST_OF_CALLS: Final = re.compile(r"\[\w+\(\w+\s*=")
_BUILT_IN: Final = re.compile(r"(\w+)\.call\((.*)\)", re.DOTALL)
_parse_known: Final = known_only(parse_python_calls)
_CODE_TOOLS: Final = ("python", "ipython", "code_interpreter")


def _parse_tagged(body: str, tools: Tools) -> tuple[ParsedCall, ...]:
    """The call behind `<|python_tag|>`: JSON, a call such as `f.call(a="x")`, or the code for a tool that runs code."""
    body = body.strip()
    built_in = _BUILT_IN.fullmatch(body)
    calls: Sequence[ParsedCall] = parse_tool_calls(body, tools)
    if not calls:  # code may look like a call too
        calls = _parse_known(body if built_in is None else f"{built_in[1]}({built_in[2]})", tools)
    if calls:
        return tuple(calls)
    known = names_of(tools)
    runner = next((name for name in _CODE_TOOLS if name in known), None)
    call = as_call(runner, {"code": body}) if runner is not None and body else None
    return () if call is None else (call,)


_PYTHON_TAG: Final = PairBlock(
    opens=("<|python_tag|>", "<|python_start|>"),
    closes=("<|eom_id|>", "<|eot_id|>", "<|python_end|>", "<|eom|>", "<|eot|>"),
    parse=_parse_tagged,
    ends_inside=ends_inside_string,
)

LLAMA_JSON: Final = MarkedFormat(
    name="llama_json",
    blocks=(_PYTHON_TAG, FUNCTION_TAG, BARE, FENCED),
    separators=";,",
    recognises=lambda template: "ipython" in template and '"parameters"' in template,
    own_triggers=(Trigger('{"name": "', is_first=True),),
    write_rules=json_object_rules(arguments_key="parameters", between="; "),
)
"""`{"name": …, "parameters": {…}}`."""

LLAMA_PYTHONIC: Final = replace(
    LLAMA_JSON,
    name="llama_pythonic",
    recognises=lambda template: _LIST_OF_CALLS.search(template) is not None,
    own_triggers=(),  # many answers begin with a bracket
    write_rules=python_rules(begin="[", end="]"),
)
"""`[f(a=1), g()]`."""
