"""Reads the `tools` and the `tool_choice` of OpenAI's `POST /v1/responses`.

A function is flat in this API, and inside `function` in OpenAI's chat completions. Chat templates know the latter.
"""

from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta, Struct

from neuron_lib.shown import clip
from neuron_lib.types import UnreadArray
from neuron_lib.wire.bodies import ANY_OBJECT, NOTHING, decode_part, is_given
from neuron_lib.wire.chat_messages import decode_tools
from neuron_lib.wire.json_bounds import check_nesting_and_numbers, refusal
from neuron_lib.wire.tool_choice import Offer, ToolChoiceField, offer_tools

__all__ = ("FlatTool", "Tool", "Tools", "read_tools")

_AUTO: Final = msgspec.Raw(b'"auto"')

_Name: TypeAlias = Annotated[str, Meta(min_length=1)]


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


_tools: Final = msgspec.json.Decoder(list[Tool])
_choice: Final = msgspec.json.Decoder(ToolChoiceField)


class Tools(Struct, frozen=True, kw_only=True):
    """What the model is offered, and what the answer repeats of it.

    `offer` has the tools in the shape that chat templates know. `shown` and `shown_choice` are JSON in this API's
    shape, without white space, because they become a part of a line.
    """

    offer: Offer
    shown: msgspec.Raw
    shown_choice: msgspec.Raw


def read_tools(tools: msgspec.Raw, choice: msgspec.Raw, *, parallel: bool | None) -> Tools:
    """The tools of a request and which of them its reply may or must call.

    Raises `MalformedJson` or `InvalidRequest` for tools that this host cannot offer, and for a choice that contradicts
    the tools. The `param` is the path of the wrong value.
    """
    functions = _functions(tools) if is_given(tools) else []
    chosen = _read_choice(choice) if is_given(choice) else None
    nested = UnreadArray(msgspec.json.encode([_Nested(function) for function in functions])) if functions else ()
    return Tools(
        offer=offer_tools(nested, chosen, parallel=parallel),
        shown=_compact(msgspec.json.encode([_flat(function) for function in functions])),
        shown_choice=_compact(bytes(choice)) if is_given(choice) else _AUTO,
    )


def _read_choice(text: msgspec.Raw) -> ToolChoiceField:
    check_nesting_and_numbers(bytes(text), param="tool_choice")
    choice: ToolChoiceField = decode_part(_choice, text, param="tool_choice")
    return choice


def _compact(text: bytes) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.format(text, indent=-1))


def _functions(text: msgspec.Raw) -> list[_Function]:
    return [_function(tool, f"tools[{i}]") for i, tool in enumerate(decode_tools(_tools, text))]


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
        decode_part(ANY_OBJECT, function.parameters, param=f"{place}.parameters")
    return function


def _flat(function: _Function) -> FlatTool:
    return FlatTool(function.name, function.description, function.parameters, bool(function.strict))
