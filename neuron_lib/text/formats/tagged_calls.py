"""Parses calls written as `<function=NAME>` around `<parameter=KEY>VALUE</parameter>`. Knows nothing of streams."""

import re
from typing import Any, Final

from neuron_lib.text.formats.arguments import as_call
from neuron_lib.text.formats.tool_format import ParsedCall, Tools
from neuron_lib.text.formats.values import parameters_of, without_frame

__all__ = ("parse_tagged_calls",)

_FUNCTION: Final = re.compile(r"<function=([^>\s]+)>\s*(.*)</function>", re.DOTALL)
_BETWEEN_FUNCTIONS: Final = re.compile(r"(?<=</function>)\s*(?=<function=)")
_PARAMETER: Final = re.compile(r"<parameter=([^>\s]+)>(.*?)</parameter>\s*", re.DOTALL)
_OPEN_PARAMETER: Final = re.compile(r"<parameter=([^>\s]+)>(.*?)(?:</parameter>\s*|(?=<parameter=)|\Z)", re.DOTALL)
"""A parameter whose end may be missing."""


def parse_tagged_calls(body: str, tools: Tools) -> tuple[ParsedCall, ...]:
    """The calls of a text that begins with `<function=`. Empty if any part of it is not understood."""
    for bodies in ([body], _BETWEEN_FUNCTIONS.split(body)):
        calls = [_tagged_call(each, tools, _PARAMETER) for each in bodies]
        understood = tuple(call for call in calls if call is not None)
        if len(understood) == len(calls):
            return understood
    if body.count("<function=") > 1 or body.count("</function>") > 1:
        return ()
    call = _tagged_call(body, tools, _OPEN_PARAMETER)
    return () if call is None else (call,)


def _tagged_call(body: str, tools: Tools, parameter_pattern: re.Pattern[str]) -> ParsedCall | None:
    function = _FUNCTION.fullmatch(body.strip())
    if function is None:
        return None
    name, parameters = function.groups()
    declared = parameters_of(name, tools)
    arguments: dict[str, Any] = {}
    position = 0
    while position < len(parameters):
        # Anchored matches keep the time linear. A search would read the rest again for every parameter that is not
        # closed.
        parameter = parameter_pattern.match(parameters, position)
        if parameter is None:
            return None
        key, value = parameter.groups()
        arguments[key] = declared.value(key, without_frame(value))
        position = parameter.end()
    return as_call(name, arguments)
