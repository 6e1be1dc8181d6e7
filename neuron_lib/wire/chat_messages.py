"""Messages and tools of a chat. They are checked here as far as anybody but the template reads them, and stay text."""

from typing import Annotated, Final, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct

from neuron_lib.shown import clip
from neuron_lib.types import MEDIA_OF_PARTS, UnreadArray
from neuron_lib.wire.bodies import AnyObject, decode_part
from neuron_lib.wire.json_bounds import check_nesting_and_numbers, check_values, refusal

__all__ = ("MAX_TOOLS", "MAX_TOOL_VALUES", "Messages", "Tools", "decode_tools", "read_messages", "read_tools")

T = TypeVar("T")

_ROLES: Final = frozenset({"assistant", "developer", "function", "system", "tool", "user"})
_MAX_MESSAGES: Final = 10_000
MAX_TOOLS: Final = 1024
MAX_TOOL_VALUES: Final = 50_000
"""When a reply calls a tool, the daemon reads the types of the tool's parameters. That takes 10 ms for this many
values.
"""


class _Url(Struct, gc=False):
    url: str | None = None


class _Part(Struct, gc=False):
    type: str
    text: str | None = None
    image_url: str | _Url | None = None


class _CalledFunction(Struct, gc=False):
    name: str


class _Call(Struct, gc=False):
    function: _CalledFunction | None = None


class _Message(Struct, gc=False):
    role: Annotated[str, Meta(min_length=1, extra_json_schema={"enum": sorted(_ROLES)})]
    content: str | list[_Part] | None = None
    tool_calls: list[_Call] | None = None
    reasoning_content: str | None = None


class _Function(Struct, gc=False):
    name: Annotated[str, Meta(min_length=1)]
    parameters: AnyObject | None = None


class _Tool(Struct, gc=False):
    type: str | None = None
    function: _Function | None = None


Messages: TypeAlias = Annotated[list[_Message], Meta(min_length=1, max_length=_MAX_MESSAGES)]
"""What the text of the messages is read as. The bound of their number is checked apart, for the words of the error."""
Tools: TypeAlias = Annotated[list[_Tool], Meta(max_length=MAX_TOOLS)]
"""What the text of the tools is read as."""

# The structs above have no cycles, and one body may make many of them. So the garbage collector does not track them.
_messages: Final = msgspec.json.Decoder(list[_Message])
_tools: Final = msgspec.json.Decoder(list[_Tool])


def read_messages(text: msgspec.Raw) -> UnreadArray:
    """The messages of a request. Raises `MalformedJson` or `InvalidRequest`; `param` is the path of the wrong value."""
    messages = decode_part(_messages, text, param="messages")
    if not 1 <= len(messages) <= _MAX_MESSAGES:
        raise refusal("messages", f"Expected `array` of length 1 to {_MAX_MESSAGES}")
    unread = bytes(text)
    check_nesting_and_numbers(unread, param="messages")
    for i, message in enumerate(messages):
        if message.role not in _ROLES:
            problem = f"expected one of {', '.join(sorted(_ROLES))}"
            raise refusal(f"messages[{i}].role", problem, quoting=f"; it is {clip(message.role)!r}")
        if isinstance(message.content, list):
            _check_parts(message.content, f"messages[{i}].content")
    return UnreadArray(unread)


def _check_parts(parts: list[_Part], place: str) -> None:
    for i, part in enumerate(parts):
        if part.type == "text" and part.text is None:
            raise refusal(f"{place}[{i}].text", "this field is required")
        if part.image_url is not None and MEDIA_OF_PARTS.get(part.type) == "image":
            _check_image(part.image_url, f"{place}[{i}].image_url")


def _check_image(image: str | _Url, place: str) -> None:
    if isinstance(image, _Url):
        place, url = f"{place}.url", image.url
    else:
        url = image
    if url is not None and url[:5].lower() != "data:":
        raise refusal(place, "only data: URLs are accepted, nothing is fetched")


def read_tools(text: msgspec.Raw) -> UnreadArray:
    """The tools of a request. Raises `MalformedJson` or `InvalidRequest`; `param` is the path of the wrong value."""
    tools = decode_tools(_tools, text)
    for i, tool in enumerate(tools):
        if tool.type not in {None, "function"}:
            raise refusal(f"tools[{i}].type", "only functions can be offered to a model")
        if tool.function is None:
            raise refusal(f"tools[{i}].function", "this field is required")
    return UnreadArray(bytes(text))


def decode_tools(decoder: msgspec.json.Decoder[list[T]], text: msgspec.Raw) -> list[T]:
    """The tools of any API, each as the decoder's type. Raises `MalformedJson` or `InvalidRequest` for too many."""
    check_values(bytes(text), most=MAX_TOOL_VALUES, place="tools")
    tools = decode_part(decoder, text, param="tools")
    if len(tools) > MAX_TOOLS:
        raise refusal("tools", f"Expected `array` of length <= {MAX_TOOLS}")
    check_nesting_and_numbers(bytes(text), param="tools")
    return tools
