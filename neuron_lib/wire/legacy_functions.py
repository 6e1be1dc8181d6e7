"""Reads `functions` and `function_call`, OpenAI's older parameters for tools, as the newer ones. Pure."""

from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta, Struct

from neuron_lib.shown import clip
from neuron_lib.wire.bodies import AnyObject, decode_part
from neuron_lib.wire.chat_messages import MAX_TOOL_VALUES, MAX_TOOLS
from neuron_lib.wire.json_bounds import check_values, refusal

__all__ = ("Function", "FunctionCallField", "tool_choice_of", "tools_of")


class Function(Struct, gc=False):
    """A function that the model may call. Its other keys are given to the template as they are."""

    name: Annotated[str, Meta(min_length=1)]
    description: str | None = None
    parameters: AnyObject | None = None


class _Named(Struct):
    name: str


FunctionCallField: TypeAlias = str | _Named
"""The type of the field `function_call` in the struct of a body."""

_functions: Final = msgspec.json.Decoder(list[Function])
_texts: Final = msgspec.json.Decoder(list[msgspec.Raw])


def tools_of(functions: msgspec.Raw) -> tuple[msgspec.Raw, frozenset[str]]:
    """The functions as the field `tools`, and their names. Raises `InvalidRequest`, whose `param` is in `functions`."""
    text = bytes(functions)
    check_values(text, most=MAX_TOOL_VALUES, place="functions")
    names = [function.name for function in decode_part(_functions, text, param="functions")]
    if len(names) > MAX_TOOLS:
        raise refusal("functions", f"Expected `array` of length <= {MAX_TOOLS}")
    tools = b",".join(b'{"type":"function","function":%b}' % bytes(each) for each in _texts.decode(text))
    return msgspec.Raw(b"[" + tools + b"]"), frozenset(names)


def tool_choice_of(choice: FunctionCallField | None, names: frozenset[str]) -> str | dict[str, object] | None:
    """The choice as the field `tool_choice`, among the functions of these names. Raises `InvalidRequest`."""
    match choice:
        case None | "auto" | "none":
            return choice
        case str():
            raise refusal("function_call", 'expected "auto", "none" or an object', quoting=f"; it is {clip(choice)!r}")
        case _Named(name) if name in names:
            return {"type": "function", "function": {"name": name}}
        case _Named(name):
            raise refusal("function_call", "there is no such function", quoting=f"; its name is {clip(name)!r}")
