"""Writes the replies of OpenAI's `POST /v1/responses`, as server-sent events or as one body.

Pure. Knows no status codes and opens no connection. `openai_responses_output` makes the items of the output.
"""

from collections.abc import Iterable
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from neuron_lib.errors import InvalidRequest, NeuronError, cause_chain
from neuron_lib.types import EventBeforeEnd, Finished, FinishReason, GenerationEvent, Usage
from neuron_lib.wire.bodies import read_as
from neuron_lib.wire.http_errors import judge
from neuron_lib.wire.line_breaks import escape_line_breaks
from neuron_lib.wire.openai_responses_output import AnyOutputEvent, Item, OutputEvent, OutputItems
from neuron_lib.wire.openai_responses_tools import FlatTool
from neuron_lib.wire.reply_shape import Format
from neuron_lib.wire.sse import server_sent_event
from neuron_lib.wire.tool_choice import ToolChoiceField

__all__ = ("ReasoningShown", "Response", "ResponseCollector", "ResponseEvent", "ResponseStreamEncoder", "Text")

_FAILED: Final = "server_error"
"""What `error.code` of a response says about every failure. Clients know only a few values."""


class ReasoningShown(Struct, frozen=True):
    """How the client asked for reasoning."""

    effort: str | None = None
    summary: str | None = None


class Text(Struct, frozen=True):
    """What the client asked of the text. `format` is JSON."""

    format: Annotated[msgspec.Raw, read_as(Format)] = msgspec.Raw(b'{"type":"text"}')
    verbosity: str = "medium"


class _Error(Struct):
    code: str
    message: str


class _Incomplete(Struct):
    reason: Literal["max_output_tokens"] = "max_output_tokens"


class _InputDetails(Struct):
    cached_tokens: int
    cache_write_tokens: int = 0


class _OutputDetails(Struct):
    reasoning_tokens: int


class _Usage(Struct):
    input_tokens: int
    input_tokens_details: _InputDetails
    output_tokens: int
    output_tokens_details: _OutputDetails
    total_tokens: int


class Response(Struct, kw_only=True):
    """The body of an answer, which is also in the first and in the last event of a stream.

    Most fields repeat the request. `usage` is the last one, because a gateway reads the end of a long body only.
    """

    id: str = ""
    object: Literal["response"] = "response"
    created_at: int = 0
    status: Literal["in_progress", "completed", "incomplete", "failed"] = "in_progress"
    background: Literal[False] = False
    error: _Error | None = None
    incomplete_details: _Incomplete | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    metadata: dict[str, str] = {}
    model: str
    output: tuple[Item, ...] = ()
    parallel_tool_calls: bool = True
    previous_response_id: None = None
    prompt_cache_key: str | None = None
    reasoning: ReasoningShown = ReasoningShown()
    safety_identifier: str | None = None
    service_tier: Literal["default"] = "default"
    store: Literal[False] = False
    temperature: float | None = None
    text: Text = Text()
    tool_choice: Annotated[msgspec.Raw, read_as(ToolChoiceField)] = msgspec.Raw(b'"auto"')
    tools: Annotated[msgspec.Raw, read_as(list[FlatTool])] = msgspec.Raw(b"[]")
    top_logprobs: int = 0
    top_p: float | None = None
    truncation: Literal["disabled"] = "disabled"
    user: str | None = None
    usage: _Usage | None = None


class _ResponseEvent(Struct, tag_field="type"):
    sequence_number: int
    response: Response


class _Created(_ResponseEvent, tag="response.created"):
    pass


class _InProgress(_ResponseEvent, tag="response.in_progress"):
    pass


class _Completed(_ResponseEvent, tag="response.completed"):
    pass


class _Cut(_ResponseEvent, tag="response.incomplete"):
    pass


class _Failed(_ResponseEvent, tag="response.failed"):
    pass


class _ErrorInside(Struct):
    type: str
    code: str
    message: str
    param: str | None


class _ErrorEvent(Struct, tag_field="type", tag="error"):
    sequence_number: int
    code: str
    message: str
    param: str | None
    error: _ErrorInside


ResponseEvent: TypeAlias = _Created | _InProgress | AnyOutputEvent | _Completed | _Cut | _Failed | _ErrorEvent
"""The data of every event of a stream, for the description of the service."""

_encode: Final = msgspec.json.Encoder().encode


class ResponseStreamEncoder:
    """Writes one reply as a stream; see `neuron_lib.wire.dialect.StreamEncoder`."""

    __slots__ = ("_items", "_number", "_response")

    def __init__(self, response: Response, *, unique: str, carries_reasoning: bool = False) -> None:
        """`response` has its id and what it repeats of the request. The rest is said by `OutputItems`."""
        self._response = response
        self._items = OutputItems(
            unique=unique, parallel=response.parallel_tool_calls, carries_reasoning=carries_reasoning
        )
        self._number = 0

    def opening(self) -> bytes:
        """The response without any output."""
        return self._tell(_Created, self._response) + self._tell(_InProgress, self._response)

    def event(self, event: EventBeforeEnd) -> bytes:
        """The events of an item. Empty for white space whose item is not known yet."""
        return self._write(self._items.add(event))

    def ending(self, finished: Finished) -> bytes:
        """The end of the last item, and the whole response."""
        is_cut = finished.reason is FinishReason.LENGTH
        events = self._write(self._items.finish(is_cut=is_cut))
        return events + self._tell(_Cut if is_cut else _Completed, _ended(self._response, self._items, finished))

    def error(self, error: NeuronError, usage: Usage) -> bytes:
        """The end of the last item, the response as far as it came, and the error.

        `response.failed` has the usage. The event `error` has the fields that OpenAI documents, and repeats them inside
        `error`, where OpenAI's clients look for an error that they raise.
        """
        message = cause_chain(error).encode(errors="replace").decode()  # it may contain bytes of a path
        events = self._write(self._items.finish(is_cut=True))
        response = replace(
            self._response,
            status="failed",
            error=_Error(_FAILED, message),
            output=self._items.items,
            usage=_usage(usage),
        )
        events += self._tell(_Failed, response)
        verdict = judge(error)
        code, param = verdict.code or _FAILED, error.param if isinstance(error, InvalidRequest) else None
        inside = _ErrorInside(verdict.type, code, message, param)
        return events + _sent(_ErrorEvent(self._next_number(), code, message, param, inside))

    def _write(self, events: Iterable[OutputEvent]) -> bytes:
        frames: list[bytes] = []
        for event in events:
            event.sequence_number = self._next_number()
            frames.append(_sent(event))
        return b"".join(frames)

    def _tell(self, kind: type[_ResponseEvent], response: Response) -> bytes:
        return _sent(kind(self._next_number(), response))

    def _next_number(self) -> int:
        self._number += 1
        return self._number - 1


class ResponseCollector:
    """Collects one reply into one body; see `neuron_lib.wire.dialect.Collector`."""

    __slots__ = ("_finished", "_items", "_response")

    def __init__(self, response: Response, *, unique: str, carries_reasoning: bool = False) -> None:
        """The arguments are those of `ResponseStreamEncoder`."""
        self._response = response
        self._items = OutputItems(
            unique=unique, parallel=response.parallel_tool_calls, carries_reasoning=carries_reasoning
        )
        self._finished: Finished | None = None

    def add(self, event: GenerationEvent) -> None:
        """Take the next event."""
        if isinstance(event, Finished):
            self._items.finish(is_cut=event.reason is FinishReason.LENGTH)
            self._finished = event
        else:
            self._items.add(event)

    def body(self) -> bytes:
        """The body as JSON. Raises `ValueError` before `Finished` has been added."""
        if self._finished is None:
            raise ValueError("the reply is not finished")
        return escape_line_breaks(_encode(_ended(self._response, self._items, self._finished)))


def _ended(response: Response, items: OutputItems, finished: Finished) -> Response:
    """The response to a reply that ended well or was cut."""
    is_cut = finished.reason is FinishReason.LENGTH
    return replace(
        response,
        status="incomplete" if is_cut else "completed",
        incomplete_details=_Incomplete() if is_cut else None,
        output=items.items,
        usage=_usage(finished.usage),
    )


def _usage(usage: Usage) -> _Usage:
    return _Usage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=_InputDetails(usage.cached_tokens),
        output_tokens=usage.completion_tokens,
        output_tokens_details=_OutputDetails(usage.reasoning_tokens),
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )


def _sent(event: OutputEvent | _ResponseEvent | _ErrorEvent) -> bytes:
    name = event.__struct_config__.tag
    assert isinstance(name, str)  # all events are tagged with their names
    return server_sent_event(_encode(event), name=name)
