"""Writes the replies of Anthropic's `POST /v1/messages`, as server-sent events or as one body.

Pure. Knows no status codes and opens no connection.
"""

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias, assert_never

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from neuron_lib.errors import NeuronError
from neuron_lib.types import (
    EventBeforeEnd,
    Finished,
    FinishReason,
    GenerationEvent,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCall,
    Usage,
)
from neuron_lib.wire.anthropic_errors import error_body
from neuron_lib.wire.line_breaks import escape_line_breaks
from neuron_lib.wire.sse import server_sent_event

__all__ = ("Event", "Message", "MessageCollector", "MessageStreamEncoder", "ReplyStyle")

_SIGNATURE: Final = "unsigned"
"""The signature of every thinking block. Nothing here checks one, but some clients drop a block that has none."""

_STOP_REASONS: Final = {
    FinishReason.STOP: "end_turn",
    FinishReason.LENGTH: "max_tokens",
    FinishReason.TOOL_CALLS: "tool_use",
}


class ReplyStyle(Struct, frozen=True, kw_only=True):
    """How the client wants a reply: with its thinking, with blocks of thinking whose text is left out, or without; and
    with many calls of tools or only the first.
    """

    thinking: Literal["shown", "omitted", "hidden"] = "hidden"
    parallel_tool_use: bool = True


# ------------------------------------------------------------------------------------------------ shapes of the wire


class _Text(Struct, kw_only=True):
    type: Literal["text"] = "text"
    text: str


class _Thinking(Struct, kw_only=True):
    type: Literal["thinking"] = "thinking"
    thinking: str
    signature: str


class _ToolUse(Struct, kw_only=True):
    type: Literal["tool_use"] = "tool_use"
    id: str
    name: str
    input: msgspec.Raw


class _ThinkingTokens(Struct):
    thinking_tokens: int


class _Usage(Struct, kw_only=True):
    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens: int
    output_tokens_details: _ThinkingTokens | UnsetType = UNSET


_Block: TypeAlias = _Text | _Thinking | _ToolUse


class Message(Struct, kw_only=True):
    """The body of a whole reply."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: tuple[_Block, ...] = ()
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: _Usage


class _MessageStart(Struct, kw_only=True):
    type: Literal["message_start"] = "message_start"
    message: Message


class _BlockStart(Struct, kw_only=True):
    type: Literal["content_block_start"] = "content_block_start"
    index: int
    content_block: _Block


class _TextDelta(Struct, kw_only=True):
    type: Literal["text_delta"] = "text_delta"
    text: str


class _ThinkingDelta(Struct, kw_only=True):
    type: Literal["thinking_delta"] = "thinking_delta"
    thinking: str


class _SignatureDelta(Struct, kw_only=True):
    type: Literal["signature_delta"] = "signature_delta"
    signature: str


class _InputDelta(Struct, kw_only=True):
    type: Literal["input_json_delta"] = "input_json_delta"
    partial_json: str


class _BlockDelta(Struct, kw_only=True):
    type: Literal["content_block_delta"] = "content_block_delta"
    index: int
    delta: _TextDelta | _ThinkingDelta | _SignatureDelta | _InputDelta


class _BlockStop(Struct, kw_only=True):
    type: Literal["content_block_stop"] = "content_block_stop"
    index: int


class _Stop(Struct, kw_only=True):
    stop_reason: str | None
    stop_sequence: str | None


class _MessageDelta(Struct, kw_only=True):
    type: Literal["message_delta"] = "message_delta"
    delta: _Stop
    usage: _Usage


class _MessageStop(Struct, kw_only=True):
    type: Literal["message_stop"] = "message_stop"


class _Ping(Struct, kw_only=True):
    type: Literal["ping"] = "ping"


Event: TypeAlias = _MessageStart | _BlockStart | _BlockDelta | _BlockStop | _MessageDelta | _MessageStop | _Ping
"""The data of an event of a stream."""

_encode: Final = msgspec.json.Encoder().encode


def _sent(event: Event) -> bytes:
    return server_sent_event(_encode(event), name=event.type)


_PING: Final = _sent(_Ping())

# --------------------------------------------------------------------------------------------- what the client is shown

_Shown: TypeAlias = TextDelta | ReasoningDelta | ToolCall


class _Pieces:
    """Picks from the events of one reply what the client is shown. Lives as long as the reply.

    A block of text is never blank: blank text is held back until more text follows, and dropped if something else does.
    """

    __slots__ = ("_blank", "_is_in_text", "_style")

    def __init__(self, style: ReplyStyle) -> None:
        self._style = style
        self._blank = ""
        self._is_in_text = False

    def take(self, event: _Shown) -> _Shown | None:
        """The event as it is shown, None if it is not."""
        match event:
            case TextDelta():
                return self._text(event)
            case ReasoningDelta():
                if self._style.thinking == "hidden":
                    return None
                self._end_text()
                return event if self._style.thinking == "shown" else replace(event, text="")
            case ToolCall():
                self._end_text()
                return event if self._style.parallel_tool_use or not event.index else None
            case _:
                assert_never(event)

    def _text(self, event: TextDelta) -> TextDelta | None:
        if self._is_in_text:
            return event if event.text else None
        self._blank += event.text
        if not self._blank.strip():
            return None
        text, self._blank, self._is_in_text = self._blank, "", True
        return replace(event, text=text)

    def _end_text(self) -> None:
        self._blank, self._is_in_text = "", False


# ------------------------------------------------------------------------------------------------------------- streams


class MessageStreamEncoder:
    """Writes one reply as a stream; see `neuron_lib.wire.dialect.StreamEncoder`.

    The stream is a message that begins empty, its content blocks one after the other, and its end with the usage. Every
    block is started, filled and stopped. Reasoning that is hidden becomes pings, so that the client sees progress.
    """

    __slots__ = ("_id", "_index", "_model", "_open", "_pieces")

    def __init__(self, *, id: str, model: str, style: ReplyStyle) -> None:  # noqa: A002 - the wire's word
        """`model` is the id that the client wrote."""
        self._id = id
        self._model = model
        self._pieces = _Pieces(style)
        self._index = 0  # of the block that is open or comes next
        self._open: Literal["text", "thinking"] | None = None

    def opening(self) -> bytes:
        """Nothing: the message begins with the number of its input tokens, which `Started` has."""
        return b""

    def event(self, event: EventBeforeEnd) -> bytes:
        """The start of the message, or a piece of a content block."""
        match event:
            case Started():
                return self._message_start(event.prompt_tokens)
            case TextDelta() | ReasoningDelta() | ToolCall():
                shown = self._pieces.take(event)
                if shown is not None:
                    return self._shown(shown)
                return _PING if isinstance(event, ReasoningDelta) else b""
            case _:  # of a task that is no chat
                return b""

    def ending(self, finished: Finished) -> bytes:
        """The end of the last block, why the message ended, and the usage."""
        return self._closed() + self._delta(_stop(finished), finished.usage) + _sent(_MessageStop())

    def error(self, error: NeuronError, usage: Usage) -> bytes:
        """The usage so far without any reason to stop, then an event with the error, and no end of the message."""
        told = self._delta(_Stop(stop_reason=None, stop_sequence=None), usage)
        return self._closed() + told + server_sent_event(error_body(error), name="error")

    def _message_start(self, prompt_tokens: int) -> bytes:
        usage = _Usage(input_tokens=prompt_tokens, output_tokens=0)
        return _sent(_MessageStart(message=Message(id=self._id, model=self._model, usage=usage))) + _PING

    def _shown(self, event: _Shown) -> bytes:
        match event:
            case TextDelta():
                opened = self._opened("text", _Text(text=""))
                return opened + self._block_delta(_TextDelta(text=event.text))
            case ReasoningDelta():
                opened = self._opened("thinking", _Thinking(thinking="", signature=""))
                return opened + (self._block_delta(_ThinkingDelta(thinking=event.text)) if event.text else b"")
            case ToolCall():
                return self._closed() + self._call(event)
            case _:
                assert_never(event)

    def _opened(self, kind: Literal["text", "thinking"], block: _Block) -> bytes:
        """The start of a block, unless one of this kind is open."""
        if self._open == kind:
            return b""
        closed = self._closed()
        self._open = kind
        return closed + _sent(_BlockStart(index=self._index, content_block=block))

    def _closed(self) -> bytes:
        """The end of the block that is open, if one is."""
        if self._open is None:
            return b""
        signed = self._block_delta(_SignatureDelta(signature=_SIGNATURE)) if self._open == "thinking" else b""
        self._open = None
        return signed + self._block_stop()

    def _call(self, call: ToolCall) -> bytes:
        block = _ToolUse(id=call.id, name=call.name, input=msgspec.Raw(b"{}"))
        start = _sent(_BlockStart(index=self._index, content_block=block))
        return start + self._block_delta(_InputDelta(partial_json=call.arguments or "{}")) + self._block_stop()

    def _block_delta(self, delta: _TextDelta | _ThinkingDelta | _SignatureDelta | _InputDelta) -> bytes:
        return _sent(_BlockDelta(index=self._index, delta=delta))

    def _block_stop(self) -> bytes:
        stop = _sent(_BlockStop(index=self._index))
        self._index += 1
        return stop

    def _delta(self, stop: _Stop, usage: Usage) -> bytes:
        return _sent(_MessageDelta(delta=stop, usage=_usage(usage)))


# ------------------------------------------------------------------------------------------------------- whole replies


class MessageCollector:
    """Collects one reply into one body; see `neuron_lib.wire.dialect.Collector`."""

    __slots__ = ("_finished", "_id", "_model", "_pieces", "_shown")

    def __init__(self, *, id: str, model: str, style: ReplyStyle) -> None:  # noqa: A002 - the wire's word
        """The arguments are those of `MessageStreamEncoder`."""
        self._id = id
        self._model = model
        self._pieces = _Pieces(style)
        self._shown: list[_Shown] = []
        self._finished: Finished | None = None

    def add(self, event: GenerationEvent) -> None:
        """Take the next event."""
        match event:
            case TextDelta() | ReasoningDelta() | ToolCall():
                shown = self._pieces.take(event)
                if shown is not None:
                    self._shown.append(shown)
            case Finished():
                self._finished = event
            case _:  # it has nothing for the body
                pass

    def body(self) -> bytes:
        """The body as JSON. Raises `ValueError` before `Finished` has been added."""
        if self._finished is None:
            raise ValueError("the reply is not finished")
        stop = _stop(self._finished)
        message = Message(
            id=self._id,
            model=self._model,
            content=_blocks(self._shown),
            stop_reason=stop.stop_reason,
            stop_sequence=stop.stop_sequence,
            usage=_usage(self._finished.usage),
        )
        return escape_line_breaks(_encode(message))


def _blocks(shown: Sequence[_Shown]) -> tuple[_Block, ...]:
    """The content blocks of a whole reply. Events of one kind in a row are one block, but each call is its own."""
    blocks: list[_Block] = []
    texts: list[str] = []
    for i, event in enumerate(shown):
        if isinstance(event, ToolCall):
            blocks.append(_ToolUse(id=event.id, name=event.name, input=msgspec.Raw((event.arguments or "{}").encode())))
            continue
        texts.append(event.text)
        if i + 1 < len(shown) and type(shown[i + 1]) is type(event):
            continue
        text = "".join(texts)
        texts.clear()
        is_text = isinstance(event, TextDelta)
        blocks.append(_Text(text=text) if is_text else _Thinking(thinking=text, signature=_SIGNATURE))
    return tuple(blocks)


def _stop(finished: Finished) -> _Stop:
    """Why the reply ended. A stop string of the request that was found is a reason of its own."""
    found = finished.stop_strings[0] if finished.stop_strings else None
    if found is not None and finished.reason is FinishReason.STOP:
        return _Stop(stop_reason="stop_sequence", stop_sequence=found)
    return _Stop(stop_reason=_STOP_REASONS[finished.reason], stop_sequence=None)


def _usage(usage: Usage) -> _Usage:
    """The usage in Anthropic's shape, in which the input tokens do not include those that came from the cache."""
    details = _ThinkingTokens(usage.reasoning_tokens) if usage.reasoning_tokens else UNSET
    return _Usage(
        input_tokens=usage.prompt_tokens - usage.cached_tokens,
        cache_read_input_tokens=usage.cached_tokens,
        output_tokens=usage.completion_tokens,
        output_tokens_details=details,
    )
