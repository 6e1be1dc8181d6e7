"""Translates the messages and tools of Anthropic's API into OpenAI's shape, which the chat templates of models know.

Every content block either arrives at the template or is refused by its name. Pure.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Struct

from neuron_lib.shown import clip
from neuron_lib.types import UnreadArray
from neuron_lib.wire.bodies import ANY_OBJECT, NOTHING, decode_part, is_given
from neuron_lib.wire.json_bounds import check_nesting_and_numbers, refusal

__all__ = ("Messages", "System", "read_conversation")

_MOST: Final = 10_000
"""Messages of a conversation, and content blocks of all its messages. To translate so many takes up to 30 ms."""
_ROLES: Final = ("assistant", "system", "user")
_BILLING: Final = "x-anthropic-billing-header:"
"""Claude Code puts a header of this name into the first system block. It is different in every request. In a prompt it
would only keep the prompt cache from finding anything.
"""


class _Block(Struct, gc=False):
    """A content block of any type. What only some types have is left as text."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    tool_use_id: str | None = None
    tool_name: str | None = None
    is_error: bool | None = None
    title: str | None = None
    context: str | None = None
    input: msgspec.Raw = NOTHING
    content: msgspec.Raw = NOTHING
    source: msgspec.Raw = NOTHING
    citations: msgspec.Raw = NOTHING


class _Message(Struct, gc=False):
    role: str
    content: str | list[_Block]


class _Source(Struct, gc=False):
    """Where an image or a document comes from."""

    type: str
    media_type: str | None = None
    data: str | None = None
    content: msgspec.Raw = NOTHING


class _Citations(Struct, gc=False):
    enabled: bool | None = None


Messages: TypeAlias = list[_Message]
"""What the text of the messages is read as."""
System: TypeAlias = str | list[_Block]
"""What the text of the system prompt is read as."""

_messages: Final = msgspec.json.Decoder(Messages)
_blocks: Final = msgspec.json.Decoder(System)
_source: Final = msgspec.json.Decoder(_Source)
_citations: Final = msgspec.json.Decoder(_Citations)
_text: Final = msgspec.json.Decoder(str)

_Placed: TypeAlias = tuple[str, _Block]
"""A block, and its path in the body."""
_Part: TypeAlias = dict[str, Any]
"""A part of a content in OpenAI's shape."""


def read_conversation(system: msgspec.Raw, messages: msgspec.Raw) -> UnreadArray:
    """The conversation as messages in OpenAI's shape: the system prompt first, if there is one.

    Raises `MalformedJson` or `InvalidRequest`; `param` is the path of the wrong value.
    """
    told = decode_part(_messages, messages, param="messages")
    if not 1 <= len(told) <= _MOST:
        raise refusal("messages", f"Expected `array` of length 1 to {_MOST}")
    if sum(len(message.content) for message in told if isinstance(message.content, list)) > _MOST:
        raise refusal("messages", f"more than {_MOST} content blocks")
    check_nesting_and_numbers(bytes(messages), param="messages")
    translated = [*_system(system)]
    names: dict[str, str] = {}
    for role, blocks in _turns(told):
        match role:
            case "user":
                translated += _user(blocks, names)
            case "assistant":
                translated.append(_assistant(blocks, names))
            case _:
                translated.append({"role": "system", "content": _content(_texts(blocks))})
    return UnreadArray(msgspec.json.encode(translated))


def _system(system: msgspec.Raw) -> Iterator[dict[str, Any]]:
    if not is_given(system):
        return
    blocks = _placed_blocks(decode_part(_blocks, system, param="system"), "system")
    parts = [part for part in _texts(blocks) if not part["text"].startswith(_BILLING)]
    if parts:
        yield {"role": "system", "content": _content(parts)}


def _turns(messages: Sequence[_Message]) -> Iterator[tuple[str, list[_Placed]]]:
    """The messages as turns: messages of users in a row are one turn, and so are those of the assistant.

    Anthropic's API does the same, and many templates refuse two user messages in a row.
    """
    role, turn = "", list[_Placed]()
    for i, message in enumerate(messages):
        if message.role not in _ROLES:
            problem = f"expected one of {', '.join(_ROLES)}"
            raise refusal(f"messages[{i}].role", problem, quoting=f"; it is {clip(message.role)!r}")
        blocks = _placed_blocks(message.content, f"messages[{i}].content")
        if message.role == role and role != "system":
            if turn and blocks and turn[-1][1].type == blocks[0][1].type == "text":
                turn.append((blocks[0][0], _Block("text", text="\n\n")))
            turn += blocks
            continue
        if role:
            yield role, turn
        role, turn = message.role, blocks
    yield role, turn


def _placed_blocks(content: str | list[_Block], place: str) -> list[_Placed]:
    """The blocks of a content. A text is the same as one block with that text."""
    if isinstance(content, str):
        return [(place, _Block("text", text=content))]
    return [(f"{place}[{i}]", block) for i, block in enumerate(content)]


# --------------------------------------------------------------------------------------------------- one turn


def _user(blocks: Sequence[_Placed], names: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The messages of a user's turn: the results of tools first, as templates expect them behind the calls."""
    yield from (_result(block, place, names) for place, block in blocks if block.type == "tool_result")
    parts: list[_Part] = []
    for place, block in blocks:
        if block.type == "mid_conv_system":
            if parts:
                yield {"role": "user", "content": _content(parts)}
                parts = []
            yield {"role": "system", "content": _content(_texts(_nested(block.content, f"{place}.content")))}
        elif block.type != "tool_result":
            parts += _parts(block, place)
    if parts or not blocks:
        yield {"role": "user", "content": _content(parts)}


def _result(block: _Block, place: str, names: dict[str, str]) -> dict[str, Any]:
    """The message with the result of a tool. No template can show that a result is an error, so its text says so."""
    if not block.tool_use_id:
        raise refusal(f"{place}.tool_use_id", "this field is required")
    parts: list[_Part] = []
    for inner_place, inner in _nested(block.content, f"{place}.content"):
        parts += _parts(inner, inner_place)
    content = _content(parts)
    if block.is_error and isinstance(content, str) and not content.lstrip().lower().startswith("error"):
        content = f"Error: {content}" if content else "Error"
    message = {"role": "tool", "tool_call_id": block.tool_use_id, "content": content}
    name = names.get(block.tool_use_id)
    return message if name is None else message | {"name": name}


def _assistant(blocks: Sequence[_Placed], names: dict[str, str]) -> dict[str, Any]:
    """The message of the assistant's turn. `names` learns which tool each of its calls is for."""
    parts: list[_Part] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for place, block in blocks:
        match block.type:
            case "thinking":
                thoughts.append(block.thinking or "")
            case "redacted_thinking":
                pass  # only the server that wrote it can read it
            case "tool_use":
                calls.append(_call(block, place))
                names[calls[-1]["id"]] = calls[-1]["function"]["name"]
            case _:
                parts += _parts(block, place)
    message: dict[str, Any] = {"role": "assistant", "content": _content(parts)}
    if thinking := "\n".join(filter(None, thoughts)):
        message["reasoning_content"] = thinking
    if calls:
        message["tool_calls"] = calls
    return message


def _call(block: _Block, place: str) -> dict[str, Any]:
    for name in ("id", "name"):
        if not getattr(block, name):
            raise refusal(f"{place}.{name}", "this field is required")
    arguments = block.input if is_given(block.input) else msgspec.Raw(b"{}")
    decode_part(ANY_OBJECT, arguments, param=f"{place}.input")
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}}


# ------------------------------------------------------------------------------------------------- one block


def _parts(block: _Block, place: str) -> Iterator[_Part]:
    """The parts of a content that a block becomes."""
    match block.type:
        case "text":
            yield from _text_parts(block, place)
        case "image":
            yield _image(block, place)
        case "document":
            yield from _document(block, place)
        case "search_result":
            yield from _search_result(block, place)
        case "tool_reference" if block.tool_name:  # the tool itself is among the request's tools
            yield {"type": "text", "text": block.tool_name}
        case _:
            problem = "blocks of this type are not supported here"
            raise refusal(f"{place}.type", problem, quoting=f": {clip(block.type)!r}")


def _text_parts(block: _Block, place: str) -> Iterator[_Part]:
    if block.text is None:
        raise refusal(f"{place}.text", "this field is required")
    if block.text:
        yield {"type": "text", "text": block.text}


def _texts(blocks: Sequence[_Placed]) -> list[_Part]:
    """The parts of a content that may only have text."""
    parts: list[_Part] = []
    for place, block in blocks:
        if block.type != "text":
            raise refusal(f"{place}.type", "only text can stand here", quoting=f"; it is {clip(block.type)!r}")
        parts += _text_parts(block, place)
    return parts


def _image(block: _Block, place: str) -> _Part:
    """An image, which only a model that sees can be asked about. No other model is: the request is refused by then."""
    source = _source_of(block, place)
    if source.type != "base64":
        problem = "an image must be in the request as base64, nothing is fetched"
        raise refusal(f"{place}.source.type", problem, quoting=f"; it is {clip(source.type)!r}")
    return {"type": "image_url", "image_url": {"url": f"data:{source.media_type};base64,{source.data}"}}


def _document(block: _Block, place: str) -> Iterator[_Part]:
    """A document in plain text or in blocks, with its title and its context before it."""
    _refuse_citations(block, place)
    source = _source_of(block, place)
    lines = [line for line in (block.title, block.context) if line]
    match source.type:
        case "text":
            yield {"type": "text", "text": "\n".join((*lines, source.data or ""))}
        case "content":
            yield from ({"type": "text", "text": line} for line in lines)
            for inner_place, inner in _nested(source.content, f"{place}.source.content"):
                if inner.type == "document":
                    raise refusal(f"{inner_place}.type", "a document cannot stand in a document")
                yield from _parts(inner, inner_place)
        case _:
            problem = "a document must be plain text in the request, other files are not read"
            raise refusal(f"{place}.source.type", problem, quoting=f"; it is {clip(source.type)!r}")


def _search_result(block: _Block, place: str) -> Iterator[_Part]:
    """A search result: its title, its source and its texts, in lines."""
    _refuse_citations(block, place)
    source = decode_part(_text, block.source, param=f"{place}.source") if is_given(block.source) else None
    texts = (part["text"] for part in _texts(_nested(block.content, f"{place}.content")))
    yield {"type": "text", "text": "\n".join(filter(None, (block.title, source, *texts)))}


def _refuse_citations(block: _Block, place: str) -> None:
    if is_given(block.citations) and decode_part(_citations, block.citations, param=f"{place}.citations").enabled:
        raise refusal(f"{place}.citations", "citations are not supported")


def _source_of(block: _Block, place: str) -> _Source:
    if not is_given(block.source):
        raise refusal(f"{place}.source", "this field is required")
    return decode_part(_source, block.source, param=f"{place}.source")


def _nested(content: msgspec.Raw, place: str) -> list[_Placed]:
    """The blocks inside a block. A text is the same as one block with that text."""
    return _placed_blocks(decode_part(_blocks, content, param=place), place) if is_given(content) else []


def _content(parts: Sequence[_Part]) -> str | list[_Part]:
    """The content of a message: one text if all its parts are texts, else the list of parts.

    Two texts are joined by a line feed, unless one of them has white space there.
    """
    if any(part["type"] != "text" for part in parts):
        return list(parts)
    pieces: list[str] = []
    for part in parts:
        text: str = part["text"]
        if pieces and not (pieces[-1][-1:].isspace() or text[:1].isspace()):
            pieces.append("\n")
        pieces.append(text)
    return "".join(pieces)
