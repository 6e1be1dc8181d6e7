"""Reads the `tools` and the `tool_choice` of OpenAI's `POST /v1/responses`.

A function is flat in this API, and inside `function` in OpenAI's chat completions. Chat templates know the latter.
"""

from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta, Struct

from neuron_lib.shown import clip
from neuron_lib.types import ToolChoice, UnreadArray
from neuron_lib.wire.bodies import NOTHING, decode_part, is_given
from neuron_lib.wire.json_bounds import check_nesting_and_numbers, check_values, refusal

__all__ = ("Choice", "FlatTool", "Tool", "Tools", "read_tools")

_MAX_TOOLS: Final = 1024
_MAX_TOOL_VALUES: Final = 50_000
_AUTO: Final = msgspec.Raw(b'"auto"')

_Name: TypeAlias = Annotated[str, Meta(min_length=1)]


class _Object(Struct, gc=False):
    """Any object. Its keys are not looked at."""


class _Function(Struct, gc=False, omit_defaults=True):
    """A function as chat templates know it. What only they read stays text."""

    name: _Name
    description: str | None = None
    parameters: msgspec.Raw = NOTHING
    strict: bool | None = None


class Tool(Struct, gc=False):
    """A tool as clients of either API write it."""

    type: str | None = None
    function: _Function | None = None
    name: _Name | None = None
    description: str | None = None
    parameters: msgspec.Raw = NOTHING
    strict: bool | None = None


class _Nested(Struct, gc=False, tag_field="type", tag="function"):
    function: _Function


class FlatTool(Struct, gc=False, tag_field="type", tag="function"):
    """A function as this API writes it."""

    name: str
    description: str | None
    parameters: msgspec.Raw
    strict: bool


class _NamedFunction(Struct, gc=False):
    name: str | None = None


class _Allowed(Struct, gc=False):
    type: str | None = None
    name: str | None = None
    function: _NamedFunction | None = None


class _Choice(Struct, gc=False):
    type: str
    name: str | None = None
    function: _NamedFunction | None = None
    mode: str | None = None
    tools: list[_Allowed] | None = None


Choice: TypeAlias = str | _Choice
"""The field `tool_choice` of a body."""

_tools: Final = msgspec.json.Decoder(list[Tool])
_choice: Final = msgspec.json.Decoder(Choice)
_object: Final = msgspec.json.Decoder(_Object)


class Tools(Struct, frozen=True, kw_only=True):
    """What the model is offered, and what the answer repeats of it.

    `offered` is in the shape that chat templates know. `shown` and `shown_choice` are JSON in this API's shape, without
    white space, because they become a part of a line.
    """

    offered: UnreadArray | tuple[()] = ()
    choice: ToolChoice = ToolChoice()
    shown: msgspec.Raw = msgspec.Raw(b"[]")
    shown_choice: msgspec.Raw = _AUTO


def read_tools(tools: msgspec.Raw, choice: msgspec.Raw, *, parallel: bool) -> Tools:
    """The tools of a request and which of them its reply may or must call.

    Raises `MalformedJson` or `InvalidRequest` for tools that this host cannot offer, and for a choice that contradicts
    the tools. The `param` is the path of the wrong value.
    """
    functions = _functions(tools) if is_given(tools) else []
    names = {function.name for function in functions}
    chosen, allowed = _read_choice(choice, names) if is_given(choice) else (ToolChoice(), None)
    chosen = ToolChoice(chosen.mode, chosen.name, parallel)
    offered = [function for function in functions if allowed is None or function.name in allowed]
    return Tools(
        offered=UnreadArray(msgspec.json.encode([_Nested(function) for function in offered]))
        if offered and chosen.mode != "none"
        else (),
        choice=chosen,
        shown=_compact(msgspec.json.encode([_flat(function) for function in functions])),
        shown_choice=_compact(bytes(choice)) if is_given(choice) else _AUTO,
    )


def _compact(text: bytes) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.format(text, indent=-1))


def _functions(text: msgspec.Raw) -> list[_Function]:
    unread = bytes(text)
    check_values(unread, most=_MAX_TOOL_VALUES, place="tools")
    tools = decode_part(_tools, text, param="tools")
    if len(tools) > _MAX_TOOLS:
        raise refusal("tools", f"Expected `array` of length <= {_MAX_TOOLS}")
    check_nesting_and_numbers(unread, param="tools")
    return [_function(tool, f"tools[{i}]") for i, tool in enumerate(tools)]


def _function(tool: Tool, place: str) -> _Function:
    if tool.type not in {None, "function"}:
        problem = "only functions can be offered to a model"
        raise refusal(f"{place}.type", problem, quoting=f"; it is {clip(str(tool.type))!r}")
    if tool.function is not None:
        function = tool.function
        place = f"{place}.function"
    elif tool.name is not None:
        function = _Function(tool.name, tool.description, tool.parameters, tool.strict)
    else:
        raise refusal(f"{place}.name", "this field is required")
    if is_given(function.parameters):
        decode_part(_object, function.parameters, param=f"{place}.parameters")
    return function


def _flat(function: _Function) -> FlatTool:
    return FlatTool(function.name, function.description, function.parameters, bool(function.strict))


def _read_choice(text: msgspec.Raw, names: set[str]) -> tuple[ToolChoice, set[str] | None]:
    """The choice, and the names of the tools that may be called; None stands for all of them."""
    check_nesting_and_numbers(bytes(text), param="tool_choice")
    choice = decode_part(_choice, text, param="tool_choice")
    kind = choice if isinstance(choice, str) else choice.type
    match choice:
        case "none" | "auto":
            return ToolChoice(choice), None
        case "required":
            return _required(names, "tool_choice"), None
        case _Choice(type="function"):
            return ToolChoice("required", _chosen_name(choice, names, "tool_choice")), None
        case _Choice(type="allowed_tools"):
            return _allowed(choice, names)
        case _:
            known = 'expected "none", "auto", "required", or an object of the type "function" or "allowed_tools"'
            place = "tool_choice" if isinstance(choice, str) else "tool_choice.type"
            raise refusal(place, known, quoting=f"; it is {clip(kind)!r}")


def _required(names: set[str], place: str) -> ToolChoice:
    if not names:
        raise refusal(place, "a call is required, and there is no tool to call")
    return ToolChoice("required")


def _chosen_name(choice: _Choice | _Allowed, names: set[str], place: str) -> str:
    nested = choice.function.name if choice.function is not None else None
    name = choice.name or nested
    if name is None:
        raise refusal(f"{place}.name", "this field is required")
    if name not in names:
        raise refusal(f"{place}.name", "no tool has this name", quoting=f": {clip(name)!r}")
    return name


def _allowed(choice: _Choice, names: set[str]) -> tuple[ToolChoice, set[str]]:
    place = "tool_choice.tools"
    if not choice.tools:
        raise refusal(place, "Expected `array` of length >= 1")
    allowed = set[str]()
    for i, tool in enumerate(choice.tools):
        if tool.type not in {None, "function"}:
            problem = "only functions can be allowed"
            raise refusal(f"{place}[{i}].type", problem, quoting=f"; it is {clip(str(tool.type))!r}")
        allowed.add(_chosen_name(tool, names, f"{place}[{i}]"))
    match choice.mode:
        case None | "auto":
            return ToolChoice(), allowed
        case "required":
            return ToolChoice("required"), allowed
        case mode:
            raise refusal("tool_choice.mode", 'expected "auto" or "required"', quoting=f"; it is {clip(mode)!r}")
