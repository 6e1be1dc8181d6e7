"""Blocks in which Llama and Functionary write a function's name in a tag, or code for a tool that runs code."""

import re
from typing import Final

from neuron_lib.text.formats.arguments import as_call, names_of, parse_arguments
from neuron_lib.text.formats.bare import known_only, value_behind
from neuron_lib.text.formats.blocks import PairBlock, ValueBlock
from neuron_lib.text.formats.json_calls import parse_tool_calls
from neuron_lib.text.formats.python_calls import ends_inside_string, parse_python_calls
from neuron_lib.text.formats.tool_format import ParsedCall, Tools

__all__ = ("CODE_TOOLS", "FUNCTION_TAG", "PYTHON_TAG")

CODE_TOOLS: Final = ("python", "ipython", "code_interpreter")
"""The names of tools that run code. Models write the code for them as it is."""
_TAG_HEAD: Final = re.compile(r"""["']?([\w.\-]+)["']?>\s*""")
_BUILT_IN: Final = re.compile(r"(\w+)\.call\((.*)\)", re.DOTALL)


def _parse_code(code: str, tools: Tools) -> tuple[ParsedCall, ...]:
    """The call of the tool that runs code, if the request has one."""
    known = names_of(tools)
    runner = next((name for name in CODE_TOOLS if name in known), None)
    call = as_call(runner, {"code": code}) if runner is not None and code and code[0] != "{" else None
    return () if call is None else (call,)


def _parse_function(body: str, _tools: Tools) -> tuple[ParsedCall, ...]:
    name = _TAG_HEAD.match(body)
    call = None if name is None else parse_arguments(name[1], body[name.end() :])
    return () if call is None else (call,)


_parse_known: Final = known_only(parse_python_calls)


def _parse_tagged(body: str, tools: Tools) -> tuple[ParsedCall, ...]:
    """The call behind `<|python_tag|>`: JSON, a call such as `f.call(a="x")`, or the code for a tool that runs code."""
    body = body.strip()
    built_in = _BUILT_IN.fullmatch(body)
    spelled = body if built_in is None else f"{built_in[1]}({built_in[2]})"
    return tuple(parse_tool_calls(body, tools) or _parse_known(spelled, tools) or _parse_code(body, tools))


FUNCTION_TAG: Final = ValueBlock(
    opens=("<function=", "<function name="),
    begins=value_behind(r"""["']?[\w.\-]*["']?>?\s*"""),
    parse=_parse_function,
    may_be_call=lambda value, _tools: value[0] == "{",
    tails=("</function>",),
)
"""`<function=NAME>{…}</function>`."""

PYTHON_TAG: Final = PairBlock(
    opens=("<|python_tag|>", "<|python_start|>"),
    closes=("<|eom_id|>", "<|eot_id|>", "<|python_end|>", "<|eom|>", "<|eot|>"),
    parse=_parse_tagged,
    ends_inside=ends_inside_string,
    may_be_any_text=True,
)
"""Code, JSON, or a call as in Python."""
