"""Reads `input` and `instructions` of OpenAI's `POST /v1/responses`: a list of items becomes a list of messages.

An item is less than a message. The reasoning, the text and the calls of one turn of the assistant are items of their
own. They become one message again, because chat templates show a turn as one message.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Struct, UnsetType

from neuron_lib.shown import clip
from neuron_lib.types import MEDIA_OF_PARTS, UnreadArray
from neuron_lib.wire.bodies import decode_part, is_given
from neuron_lib.wire.json_bounds import check_nesting_and_numbers, refusal
from neuron_lib.wire.openai_responses_output import CARRIED

__all__ = ("Conversation", "Input", "read_input")

_MAX_ITEMS: Final = 10_000
_ROLES: Final = frozenset({"assistant", "developer", "system", "user"})
_TEXTS: Final = frozenset({"input_text", "output_text", "reasoning_text", "refusal", "summary_text", "text"})
"""The types of parts that are a text."""
_UNFINISHED: Final = frozenset({"in_progress", "incomplete"})
"""The status of an item that its reply was cut in."""
_NOT_KEPT: Final = (
    "no item is kept here, so none can be referred to; send the item itself, as clients do with `store: false`"
)
_BETWEEN_TEXTS: Final = "\n\n"
"""What is put between the texts of one item. The gateway's contract says so."""


# ----------------------------------------------------------------------------------------------- what the client sends


class _Url(Struct, gc=False):
    url: str | None = None


class _Part(Struct, gc=False):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | _Url | None = None
    file_id: str | None = None


class _Item(Struct, gc=False):
    """The fields of all items that can be shown to a model."""

    type: str | None = None
    role: str | None = None
    content: str | list[_Part] | None = None
    status: str | None = None
    summary: list[_Part] | None = None
    encrypted_content: str | None = None
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: msgspec.Raw = msgspec.Raw(b"null")


Input: TypeAlias = str | list[_Item]
"""The field `input` of a body."""

_input: Final = msgspec.json.Decoder(Input)
_output: Final = msgspec.json.Decoder(str | list[_Part])
_any: Final = msgspec.json.Decoder()


# ------------------------------------------------------------------------------------------- what the template is given


class _ShownText(Struct, gc=False, tag_field="type", tag="text"):
    text: str


class _ShownUrl(Struct, gc=False):
    url: str


class _ShownImage(Struct, gc=False, tag_field="type", tag="image_url"):
    image_url: _ShownUrl


class _ShownMedium(Struct, gc=False):
    """A part whose medium no model here reads. Its type is enough, because the model refuses it by its type."""

    type: str


_Shown: TypeAlias = str | list[_ShownText | _ShownImage | _ShownMedium]


class _Function(Struct, gc=False):
    name: str
    arguments: str


class _Call(Struct, gc=False, kw_only=True):
    id: str
    type: str = "function"
    function: _Function


class _Message(Struct):
    role: str
    content: _Shown = ""
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[_Call] | UnsetType = UNSET
    tool_call_id: str | UnsetType = UNSET
    name: str | UnsetType = UNSET


class Conversation(Struct, frozen=True):
    """The messages of a request. `goes_on` says that the last one is the assistant's and was cut.

    The reply then goes on with that message.
    """

    messages: UnreadArray
    goes_on: bool


def read_input(text: msgspec.Raw, *, instructions: str | None) -> Conversation:
    """The conversation in `input`, after the `instructions` as the message of the system.

    Raises `MalformedJson` or `InvalidRequest` for values that cannot be shown to a model. The `param` is their path.
    """
    items = decode_part(_input, text, param="input")
    messages = _Messages()
    if instructions is not None:
        messages.say(_Message("system", instructions))
    if isinstance(items, str):
        messages.say(_Message("user", items))
        return _conversation(messages, goes_on=False)
    if not 1 <= len(items) <= _MAX_ITEMS:
        raise refusal("input", f"Expected `array` of length 1 to {_MAX_ITEMS}, or `str`")
    check_nesting_and_numbers(bytes(text), param="input")
    for i, item in enumerate(items):
        messages.add(item, f"input[{i}]")
    last = items[-1]
    was_cut = _kind(last) == "message" and last.role == "assistant" and last.status in _UNFINISHED
    return _conversation(messages, goes_on=was_cut)


def _conversation(messages: "_Messages", *, goes_on: bool) -> Conversation:
    return Conversation(UnreadArray(msgspec.json.encode(messages.all())), goes_on)


@dataclass(slots=True)
class _Turn:
    """What the assistant did at a time: it reasoned, then spoke, then called functions."""

    thoughts: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)

    def message(self) -> _Message:
        return _Message(
            "assistant",
            _BETWEEN_TEXTS.join(self.texts),
            reasoning_content=_BETWEEN_TEXTS.join(self.thoughts) if self.thoughts else UNSET,
            tool_calls=self.calls or UNSET,
        )


class _Messages:
    """The messages so far. Used for one request."""

    def __init__(self) -> None:
        self._said: list[_Message] = []
        self._turn: _Turn | None = None  # of the assistant, not said yet
        self._names: dict[str, str] = {}  # of the functions that were called, by the id of the call

    def all(self) -> list[_Message]:
        self._end_turn()
        return self._said

    def say(self, message: _Message) -> None:
        """Add a whole message."""
        self._end_turn()
        self._said.append(message)

    def add(self, item: _Item, place: str) -> None:
        """Take the next item. `place` is its path."""
        match _kind(item):
            case "message":
                self._add_message(item, place)
            case "reasoning":
                for text in _thoughts(item):
                    self._turn_before("texts", "calls").thoughts.append(text)
            case "function_call":
                self._add_call(item, place)
            case "function_call_output":
                self._add_output(item, place)
            case "item_reference":
                raise refusal(place, _NOT_KEPT)
            case None:
                raise refusal(f"{place}.type", "this field is required")
            case kind:
                problem = "an item of this type cannot be shown to a model"
                raise refusal(f"{place}.type", problem, quoting=f"; it is {clip(kind)!r}")

    def _add_message(self, item: _Item, place: str) -> None:
        if item.role not in _ROLES:
            problem = f"expected one of {', '.join(sorted(_ROLES))}"
            raise refusal(f"{place}.role", problem, quoting=f"; it is {clip(str(item.role))!r}")
        content = _shown(item.content, f"{place}.content")
        if item.role == "assistant" and isinstance(content, str):
            self._turn_before("calls").texts.append(content)
        else:
            self.say(_Message(item.role, content))

    def _add_call(self, item: _Item, place: str) -> None:
        name, call_id = _required(item.name, f"{place}.name"), _required(item.call_id, f"{place}.call_id")
        self._names[call_id] = name
        call = _Call(id=call_id, function=_Function(name, item.arguments or "{}"))
        self._turn_before().calls.append(call)

    def _add_output(self, item: _Item, place: str) -> None:
        call_id = _required(item.call_id, f"{place}.call_id")
        if not is_given(item.output):
            raise refusal(f"{place}.output", "this field is required")
        content = _shown_output(item.output, f"{place}.output")
        name = item.name or self._names.get(call_id) or UNSET
        self.say(_Message("tool", content, tool_call_id=call_id, name=name))

    def _turn_before(self, *later: Literal["texts", "calls"]) -> _Turn:
        """The turn of the assistant so far. If it has what comes `later` in a turn already, the next turn begins."""
        if any(getattr(self._turn, kind, ()) for kind in later):
            self._end_turn()
        self._turn = self._turn or _Turn()
        return self._turn

    def _end_turn(self) -> None:
        if self._turn is not None:
            self._said.append(self._turn.message())
            self._turn = None


def _kind(item: _Item) -> str | None:
    """The type of an item. Clients leave it out for messages and for references."""
    if item.type is not None:
        return item.type
    if item.role is not None:
        return "message"
    return "item_reference" if item.id is not None else None


def _required(value: str | None, place: str) -> str:
    if not value:
        raise refusal(place, "this field is required")
    return value


def _thoughts(item: _Item) -> list[str]:
    """The texts of an item of reasoning. They are in its content, as from other servers, or in its summary, as here.

    A client that shows no reasoning may send back only what stands for encrypted reasoning. If it is not from here, it
    says nothing to a model here, and is left out.
    """
    parts = item.content or item.summary or []
    texts = [parts] if isinstance(parts, str) else [part.text for part in parts]
    if not any(texts) and item.encrypted_content is not None and item.encrypted_content.startswith(CARRIED):
        texts = [item.encrypted_content.removeprefix(CARRIED)]
    return [text for text in texts if text]


def _shown_output(text: msgspec.Raw, place: str) -> _Shown:
    """The output of a function. A value that is neither a text nor a list of known parts is shown as JSON."""
    try:
        output = _output.decode(text)
    except msgspec.DecodeError:
        output = None
    if output is None or not (isinstance(output, str) or all(_is_known(part) for part in output)):
        # Decoded and encoded again, so that no character is an escape for the model.
        return msgspec.json.encode(decode_part(_any, text, param=place)).decode()
    return _shown(output, place)


def _is_known(part: _Part) -> bool:
    return part.type in _TEXTS or part.type in MEDIA_OF_PARTS


def _shown(content: str | Sequence[_Part] | None, place: str) -> _Shown:
    """The content of a message: one text, or a list of parts if there is something else than text."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = [_shown_part(part, f"{place}[{i}]") for i, part in enumerate(content)]
    texts = [part.text for part in parts if isinstance(part, _ShownText)]
    return _BETWEEN_TEXTS.join(texts) if len(texts) == len(parts) else parts


def _shown_part(part: _Part, place: str) -> _ShownText | _ShownImage | _ShownMedium:
    if part.type in _TEXTS:
        text = part.refusal if part.type == "refusal" else part.text
        if text is None:
            raise refusal(f"{place}.{'refusal' if part.type == 'refusal' else 'text'}", "this field is required")
        return _ShownText(text)
    medium = MEDIA_OF_PARTS.get(part.type)
    if medium is None:
        problem = "a part of this type cannot be shown to a model"
        raise refusal(f"{place}.type", problem, quoting=f"; it is {clip(part.type)!r}")
    if part.file_id is not None:
        raise refusal(f"{place}.file_id", "no file is kept here; send its content")
    if medium != "image":
        return _ShownMedium(part.type)
    url = part.image_url.url if isinstance(part.image_url, _Url) else part.image_url
    if url is None:
        raise refusal(f"{place}.image_url", "this field is required")
    if url[:5].lower() != "data:":
        raise refusal(f"{place}.image_url", "only data: URLs are accepted, nothing is fetched")
    return _ShownImage(_ShownUrl(url))
