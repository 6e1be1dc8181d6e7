"""Reads the tools of Anthropic's API and the choice between them. Pure."""

from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta, Struct

from neuron_lib.shown import clip
from neuron_lib.types import ToolChoice, UnreadArray
from neuron_lib.wire.bodies import ANY_OBJECT, ANY_OBJECTS, NOTHING, decode_part, is_given
from neuron_lib.wire.chat_messages import decode_tools
from neuron_lib.wire.json_bounds import refusal

__all__ = ("ToolChoiceField", "Tools", "read_tool_choice", "read_tools")

_DIRECT: Final = ["direct"]


class ToolChoiceField(Struct, frozen=True):
    """The field `tool_choice`. Which types there are is checked by `read_tool_choice`."""

    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _Tool(Struct, gc=False):
    """A tool of the client.

    `cache_control` and `eager_input_streaming` change no answer here. Nor does `defer_loading`: the model sees every
    tool from the beginning.
    """

    type: str | None = None
    name: Annotated[str, Meta(min_length=1)] | None = None
    description: str | None = None
    input_schema: msgspec.Raw = NOTHING
    input_examples: msgspec.Raw = NOTHING
    strict: bool | None = None
    allowed_callers: list[str] | None = None


Tools: TypeAlias = list[_Tool]
"""What the text of the tools is read as."""

_tools: Final = msgspec.json.Decoder(Tools)


def read_tools(text: msgspec.Raw) -> tuple[UnreadArray | tuple[()], frozenset[str]]:
    """The tools of a request in OpenAI's shape, and their names.

    Raises `MalformedJson` or `InvalidRequest`, also for tools that Anthropic's servers would run or that only their
    models know. `param` is the path of the wrong value.
    """
    if not is_given(text):
        return (), frozenset()
    names = set[str]()
    functions = list[dict[str, Any]]()
    for i, tool in enumerate(decode_tools(_tools, text)):
        function = _function(tool, f"tools[{i}]")
        if function["name"] in names:
            raise refusal(f"tools[{i}].name", "another tool has the same name")
        names.add(function["name"])
        functions.append({"type": "function", "function": function})
    return (UnreadArray(msgspec.json.encode(functions)) if functions else ()), frozenset(names)


def _function(tool: _Tool, place: str) -> dict[str, Any]:
    if tool.type not in {None, "custom"}:
        problem = "only tools of the type custom are supported, which have an input_schema"
        raise refusal(f"{place}.type", problem, quoting=f"; it is {clip(tool.type or '')!r}")
    for name in ("name", "input_schema"):
        if (value := getattr(tool, name)) is None or (isinstance(value, msgspec.Raw) and not is_given(value)):
            raise refusal(f"{place}.{name}", "this field is required")
    if tool.allowed_callers not in (None, _DIRECT):
        raise refusal(f"{place}.allowed_callers", "only direct calls are supported")
    decode_part(ANY_OBJECT, tool.input_schema, param=f"{place}.input_schema")
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = tool.input_schema
    if tool.strict is not None:
        function["strict"] = tool.strict
    if is_given(tool.input_examples):
        decode_part(ANY_OBJECTS, tool.input_examples, param=f"{place}.input_examples")
        function["input_examples"] = tool.input_examples
    return function


def read_tool_choice(choice: ToolChoiceField | None, names: frozenset[str]) -> ToolChoice:
    """The choice between the tools of these names.

    Raises `InvalidRequest` for an unknown type of choice, and for a choice that no tool can fulfil.
    """
    if choice is None:
        return ToolChoice()
    if choice.name is not None and choice.type != "tool":
        raise refusal("tool_choice.name", "only a choice of the type tool has a name")
    parallel = not choice.disable_parallel_tool_use
    match choice.type:
        case "auto" | "none" as mode:
            return ToolChoice(mode=mode, parallel=parallel)
        case "any" | "tool" if not names:
            raise refusal("tool_choice", "there are no tools to choose from")
        case "any":
            return ToolChoice(mode="required", parallel=parallel)
        case "tool" if choice.name in names:
            return ToolChoice(mode="required", name=choice.name, parallel=parallel)
        case "tool":
            raise refusal("tool_choice.name", "no tool has this name")
        case other:
            known = "expected one of auto, any, tool and none"
            raise refusal("tool_choice.type", known, quoting=f"; it is {clip(other)!r}")
