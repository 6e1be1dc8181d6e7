"""The reply to OpenAI's `POST /v1/chat/completions`, as one body or as the bytes of server-sent events.

Shapes what a generation tells. Knows no status codes and opens no connection.
"""

from typing import Final, Literal, assert_never

import msgspec
from msgspec import UNSET, Struct, UnsetType

from neuron_lib.types import (
    Finished,
    FinishReason,
    GenerationEvent,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCall,
    Usage,
)

__all__ = ("DONE", "KEEP_ALIVE", "ChatCollector", "ChatStreamEncoder")

DONE: Final = b"data: [DONE]\n\n"
"""The last event of every stream that ended well."""

KEEP_ALIVE: Final = b":\n\n"
"""A comment, for a stream that would otherwise be silent."""

# UNSET leaves a key out, None writes null: before the end `finish_reason` is null and `usage` is not there.


class _Function(Struct):
    name: str
    arguments: str


class _CallDelta(Struct, kw_only=True):
    index: int
    id: str
    type: Literal["function"] = "function"
    function: _Function


class _Delta(Struct):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: tuple[_CallDelta, ...] | UnsetType = UNSET


class _ChunkChoice(Struct):
    index: int
    delta: _Delta
    finish_reason: FinishReason | None


class _CachedTokens(Struct):
    cached_tokens: int


class _ReasoningTokens(Struct):
    reasoning_tokens: int


class _Timing(Struct):
    prefill_ms: int
    decode_ms: int
    prefill_tokens: int


class _Usage(Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: _CachedTokens | UnsetType
    completion_tokens_details: _ReasoningTokens | UnsetType
    helexa_timing: _Timing


class _Chunk(Struct, kw_only=True):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: tuple[_ChunkChoice, ...]
    usage: _Usage | UnsetType = UNSET


class _Call(Struct, kw_only=True):
    id: str
    type: Literal["function"] = "function"
    function: _Function


class _Message(Struct):
    role: Literal["assistant"]
    content: str
    tool_calls: tuple[_Call, ...] | UnsetType


class _Choice(Struct):
    index: int
    message: _Message
    finish_reason: FinishReason


class _Completion(Struct, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: tuple[_Choice, ...]
    usage: _Usage


_encode: Final = msgspec.json.Encoder().encode


class ChatStreamEncoder:
    """Writes one reply as whole server-sent events, in the order of the contract (§1.8): `role`, any `event`s,
    `finish`, `usage`, then `DONE`. Lines end with LF alone: the gateway finds no event in a stream with CRLF.
    """

    __slots__ = ("_created", "_id", "_model")

    def __init__(self, *, id: str, created: int, model: str) -> None:  # noqa: A002 - the wire's word
        """`created` is a Unix time in seconds, `model` the name the client used."""
        self._id = id
        self._created = created
        self._model = model

    def role(self) -> bytes:
        """The opening event, sent before the first token is there."""
        return self._choice(_Delta(role="assistant"))

    def event(self, event: TextDelta | ReasoningDelta | ToolCall) -> bytes:
        """A piece of the reply."""
        match event:
            case TextDelta():
                return self._choice(_Delta(content=event.text))
            case ReasoningDelta():
                return self._choice(_Delta(reasoning_content=event.text))
            case ToolCall():
                function = _Function(event.name, event.arguments)
                return self._choice(_Delta(tool_calls=(_CallDelta(index=event.index, id=event.id, function=function),)))
            case _:
                assert_never(event)

    def finish(self, reason: FinishReason) -> bytes:
        """The end of the reply."""
        return self._choice(_Delta(), finish_reason=reason)

    def usage(self, usage: Usage) -> bytes:
        """The bill. Always sent, with only `DONE` behind it: the gateway looks for it at the end of the stream."""
        return self._chunk(choices=(), usage=_usage(usage))

    @staticmethod
    def error(envelope: bytes) -> bytes:
        """The event for a reply that was lost half-way; `envelope` is the JSON that an HTTP answer would have."""
        return _event(envelope)

    def _choice(self, delta: _Delta, *, finish_reason: FinishReason | None = None) -> bytes:
        return self._chunk(choices=(_ChunkChoice(0, delta, finish_reason),))

    def _chunk(self, *, choices: tuple[_ChunkChoice, ...], usage: _Usage | UnsetType = UNSET) -> bytes:
        chunk = _Chunk(id=self._id, created=self._created, model=self._model, choices=choices, usage=usage)
        return _event(_encode(chunk))


class ChatCollector:
    """Gathers one reply for a client that wants it whole: `add` every event, then take the `body`."""

    __slots__ = ("_calls", "_created", "_finished", "_id", "_model", "_texts")

    def __init__(self, *, id: str, created: int, model: str) -> None:  # noqa: A002 - the wire's word
        """`created` is a Unix time in seconds, `model` the name the client used."""
        self._id = id
        self._created = created
        self._model = model
        self._texts: list[str] = []
        self._calls: list[_Call] = []
        self._finished: Finished | None = None

    def add(self, event: GenerationEvent) -> None:
        """Take the next event. Reasoning is not part of the answer (wire contract §1.8)."""
        match event:
            case TextDelta():
                self._texts.append(event.text)
            case ToolCall():
                self._calls.append(_Call(id=event.id, function=_Function(event.name, event.arguments)))
            case Finished():
                self._finished = event
            case Started() | ReasoningDelta():
                pass
            case _:
                assert_never(event)

    def body(self) -> bytes:
        """The response as JSON; raises `ValueError` if no `Finished` came."""
        if self._finished is None:
            raise ValueError("the reply is not finished")
        message = _Message("assistant", "".join(self._texts), tuple(self._calls) or UNSET)
        return _encode(
            _Completion(
                id=self._id,
                created=self._created,
                model=self._model,
                choices=(_Choice(0, message, self._finished.reason),),
                usage=_usage(self._finished.usage),
            )
        )


def _usage(usage: Usage) -> _Usage:
    """Token counts as clients read them; a detail is there only when it says something (wire contract §1.8)."""
    return _Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details=_CachedTokens(usage.cached_tokens) if usage.cached_tokens else UNSET,
        completion_tokens_details=_ReasoningTokens(usage.reasoning_tokens) if usage.reasoning_tokens else UNSET,
        helexa_timing=_Timing(usage.prefill_ms, usage.decode_ms, usage.prompt_tokens - usage.cached_tokens),
    )


def _event(payload: bytes) -> bytes:
    return b"data: " + payload + b"\n\n"
