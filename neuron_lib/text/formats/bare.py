"""Calls without a marker: a JSON value, a list of Python calls, or either in a code fence, where an answer begins.

Many answers begin with a bracket. So such a text is a call only if all functions in it are the request's tools.
"""

import re
from collections.abc import Callable
from typing import Final

from neuron_lib.text.formats.arguments import names_of
from neuron_lib.text.formats.blocks import Parser, ValueBlock
from neuron_lib.text.formats.json_calls import parse_tool_calls
from neuron_lib.text.formats.python_calls import parse_python_calls
from neuron_lib.text.formats.tool_format import ParsedCall, Tools

__all__ = ("BARE", "FENCED", "known_only", "may_be_call", "parse_value", "value_behind")

_FIRST_KEYS: Final = ("name", "tool_name", "type", "function", "parameters", "arguments", "tool_call", "tool_calls")
_SPACE: Final = " \t\r\n"
_KEY: Final = re.compile(r"""["']([a-z_]*)(["']?)""")
_NAME: Final = re.compile(r"""["'](?:name|tool_name|function)["']\s*:\s*["']([^"']*)(["']?)""")
_ARGUMENTS: Final = re.compile(r"""["'](?:arguments|parameters|args)["']\s*:""")
_WORD: Final = re.compile(r"[\w.\-]*")


def known_only(parse: Parser) -> Parser:
    """A parser that understands a body only if all calls in it are of the request's tools."""

    def parse_known(body: str, tools: Tools) -> tuple[ParsedCall, ...]:
        known = names_of(tools)
        calls = tuple(parse(body, tools))
        return calls if all(call.name in known for call in calls) else ()

    return parse_known


def parse_value(body: str, tools: Tools) -> tuple[ParsedCall, ...]:
    """The calls of a body in JSON, or written as in Python."""
    return tuple(parse_tool_calls(body, tools) or parse_python_calls(body, tools))


_parse_known: Final = known_only(parse_value)


def _parse_bare(body: str, tools: Tools) -> tuple[ParsedCall, ...]:
    """The calls of a body without a marker. JSON objects must have arguments: others may be data that has a name."""
    calls = tuple(_parse_known(body, tools))
    is_json = body.lstrip("[" + _SPACE).startswith("{")
    return calls if not is_json or len(_ARGUMENTS.findall(body)) >= len(calls) else ()


def may_be_call(value: str, tools: Tools) -> bool:
    """Whether the text `value` may be the beginning of calls of these tools."""
    text = value.lstrip("[" + _SPACE)
    if not text:
        return True
    return _may_be_object(text, tools) if text[0] == "{" else value[0] == "[" and _may_be_python(text, tools)


def _may_be_object(text: str, tools: Tools) -> bool:
    """Whether this may be the beginning of an object that is a call."""
    text = text[1:].lstrip(_SPACE)
    key = _KEY.match(text)
    if key is None:
        return not text
    if not key[2]:
        return key.end() == len(text) and any(each.startswith(key[1]) for each in _FIRST_KEYS)
    name = _NAME.match(text)
    return key[1] in _FIRST_KEYS and (name is None or _may_be_name(name[1], tools, is_whole=bool(name[2])))


def _may_be_python(text: str, tools: Tools) -> bool:
    """Whether this may be the beginning of a call written as in Python."""
    match = _WORD.match(text)
    name = "" if match is None else match[0]
    rest = text[len(name) :].lstrip(_SPACE)
    return rest[:1] in {"", "("} and _may_be_name(name, tools, is_whole=bool(rest))


def _may_be_name(name: str, tools: Tools, *, is_whole: bool) -> bool:
    known = names_of(tools)
    return name in known if is_whole else any(each.startswith(name) for each in known)


def value_behind(head: str) -> Callable[[str], int | None]:
    """Finds the bracket of a value behind a head. The pattern `head` must match every beginning of a head too."""
    pattern = re.compile(head)

    def begins(text: str) -> int | None:
        match = pattern.match(text)
        start = 0 if match is None else match.end()
        if start == len(text):
            return None
        return start if text[start] in "[{" else -1

    return begins


_FENCE_HEAD: Final = r"\w*\s*"


def _parse_fenced(body: str, tools: Tools) -> tuple[ParsedCall, ...]:
    return _parse_bare(re.sub(_FENCE_HEAD, "", body, count=1), tools)


BARE: Final = ValueBlock(
    opens=("{", "["),
    begins=value_behind(""),
    parse=_parse_bare,
    may_be_call=may_be_call,
    keeps_opening=True,
    is_first=True,
)
"""A JSON object with a name and arguments, or a list of these, or a list of calls written as in Python."""

FENCED: Final = ValueBlock(
    opens=("```",),
    begins=value_behind(_FENCE_HEAD),
    parse=_parse_fenced,
    may_be_call=may_be_call,
    tails=("```",),
    is_first=True,
)
"""The same in a code fence."""
