"""Reads whether a reply calls tools: `tool_choice` as OpenAI's two APIs and Anthropic's spell it. Pure."""

from collections.abc import Sequence
from typing import Annotated, Final, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta, Struct

from neuron_lib.shown import clip
from neuron_lib.types import ToolChoice, UnreadArray
from neuron_lib.wire.json_bounds import refusal

__all__ = ("Offer", "ToolChoiceField", "offer_tools")

_MAX_ALLOWED: Final = 1024

_Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=1024)]

_MODES: Final[dict[str, Literal["auto", "none", "required"]]] = {
    "auto": "auto",
    "any": "required",
    "none": "none",
    "required": "required",
}
"""Each word for a mode. Anthropic, Mistral and LangChain say "any" for "required"."""


class _Named(Struct):
    name: _Name


class _Allowed(Struct):
    """A tool of a list of allowed ones. OpenAI's Responses API has the name beside the type."""

    type: str | None = None
    name: _Name | None = None
    function: _Named | None = None


class _AllowedTools(Struct):
    mode: str
    tools: Annotated[list[_Allowed], Meta(max_length=_MAX_ALLOWED)]


class _ToolChoice(Struct):
    """A choice that is an object. `disable_parallel_tool_use` is Anthropic's."""

    type: str | None = None
    name: _Name | None = None
    function: _Named | None = None
    allowed_tools: _AllowedTools | None = None
    mode: str | None = None
    tools: Annotated[list[_Allowed], Meta(max_length=_MAX_ALLOWED)] | None = None
    disable_parallel_tool_use: bool | None = None


ToolChoiceField: TypeAlias = str | _ToolChoice
"""The type of the field `tool_choice` in the struct of a body."""


class _Function(Struct, frozen=True):
    name: str = ""


class _Tool(Struct):
    function: _Function = _Function()


_tools: Final = msgspec.json.Decoder(list[_Tool])
_raw_tools: Final = msgspec.json.Decoder(list[msgspec.Raw])


class Offer(NamedTuple):
    """The tools that a reply may call, and whether it calls them. Without tools the choice is the default."""

    tools: UnreadArray | tuple[()]
    choice: ToolChoice


def offer_tools(
    tools: UnreadArray | tuple[()], choice: ToolChoiceField | None, *, parallel: bool | None = None
) -> Offer:
    """What a request offers. `tools` have OpenAI's shape for chats, and `parallel` is the field `parallel_tool_calls`.

    The choice "none" offers no tools. A list of allowed tools offers those tools and no others.

    Raises `InvalidRequest`, whose `param` is `tool_choice`, for a choice that is not understood, that names a tool
    which is not among `tools`, or that requires a call where there are no tools.
    """
    mode, name, allowed = _read(choice)
    if allowed is not None:
        tools = _only(tools, allowed)
    if mode == "none":
        return Offer((), ToolChoice())
    if not tools:
        if mode == "required":
            raise refusal("tool_choice", "a call is required, and there are no tools")
        return Offer((), ToolChoice())
    if name is not None:
        _check_offered(tools, [name])
    is_single = isinstance(choice, _ToolChoice) and choice.disable_parallel_tool_use
    return Offer(tools, ToolChoice(mode=mode, name=name, parallel=parallel is not False and not is_single))


_Reading: TypeAlias = tuple[Literal["auto", "none", "required"], str | None, Sequence[str] | None]
"""The mode, the one tool that is to be called, and the tools that may be called; None where the choice is open."""


def _read(choice: ToolChoiceField | None) -> _Reading:
    match choice:
        case None:
            return "auto", None, None
        case str():
            return _mode(choice, place="tool_choice"), None, None
        case _ToolChoice(type="function" | "tool") | _ToolChoice(type=None, function=_Named()):
            return "required", _name_of(choice), None
        case _ToolChoice(type="allowed_tools"):
            return _of_allowed(choice)
        case _ToolChoice(type=str(kind)) if kind in _MODES:
            return _MODES[kind], None, None
        case _ToolChoice(type=kind):
            known = 'expected one of "auto", "none", "any", "required", "function", "tool" and "allowed_tools"'
            raise refusal("tool_choice.type", known, quoting="" if kind is None else f"; it is {clip(kind)!r}")


def _name_of(choice: _ToolChoice) -> str:
    """OpenAI's chats have the name in `function`, its Responses API and Anthropic's API beside the type."""
    if choice.function is not None:
        return choice.function.name
    if choice.name is None:
        raise refusal("tool_choice.name", "this field is required")
    return choice.name


def _mode(word: str, *, place: str) -> Literal["auto", "none", "required"]:
    mode = _MODES.get(word)
    if mode is None:
        known = 'expected one of "auto", "none", "required" and "any", or an object'
        raise refusal(place, known, quoting=f"; it is {clip(word)!r}")
    return mode


def _of_allowed(choice: _ToolChoice) -> _Reading:
    """OpenAI's chats have the list in `allowed_tools`, its Responses API beside the type."""
    place = "tool_choice" if choice.allowed_tools is None else "tool_choice.allowed_tools"
    mode, tools = choice.mode, choice.tools
    if choice.allowed_tools is not None:
        mode, tools = choice.allowed_tools.mode, choice.allowed_tools.tools
    if mode not in {"auto", "required"}:
        raise refusal(f"{place}.mode", 'expected "auto" or "required"', quoting=f"; it is {clip(mode or 'null')!r}")
    names: list[str] = []
    for i, tool in enumerate(tools or ()):
        name = tool.name if tool.function is None else tool.function.name
        if tool.type not in {None, "function"} or name is None:
            raise refusal(f"{place}.tools[{i}]", "expected a function with its name")
        names.append(name)
    if not names:
        raise refusal(f"{place}.tools", "Expected `array` of length >= 1")
    return _MODES[mode], None, names


def _only(tools: UnreadArray | tuple[()], names: Sequence[str]) -> UnreadArray:
    """Those of the tools that have one of these names."""
    present = _check_offered(tools, names)
    each = _raw_tools.decode(tools.text) if isinstance(tools, UnreadArray) else []
    kept = [bytes(tool) for tool, name in zip(each, present, strict=True) if name in names]
    return UnreadArray(b"[" + b",".join(kept) + b"]")


def _check_offered(tools: UnreadArray | tuple[()], names: Sequence[str]) -> list[str]:
    """The names of the tools, after a check that `names` are among them."""
    present = [tool.function.name for tool in _tools.decode(tools.text)] if isinstance(tools, UnreadArray) else []
    missing = next((name for name in names if name not in present), None)
    if missing is not None:
        problem = "the tool that is to be called is not in `tools`"
        raise refusal("tool_choice", problem, quoting=f"; its name is {clip(missing)!r}")
    return present
