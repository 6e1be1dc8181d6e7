"""The replies to OpenAI's `POST /v1/chat/completions`, as one body or as the bytes of server-sent events.

Shapes what a generation tells. Knows no status codes and opens no connection.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, Literal, assert_never

import msgspec
from msgspec import UNSET, Struct, UnsetType

from neuron_lib.types import (
    Embedding,
    Finished,
    FinishReason,
    GenerationEvent,
    Likely,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCall,
    Usage,
)
from neuron_lib.wire.line_breaks import escape_line_breaks

__all__ = ("DONE", "KEEP_ALIVE", "ChatCollector", "ChatStreamEncoder", "StreamUsage")

DONE: Final = b"data: [DONE]\n\n"
"""The last event of every stream that ended well."""

KEEP_ALIVE: Final = b":\n\n"
"""A comment, for a stream that would otherwise be silent."""

_VERY_UNLIKELY: Final = -9999.0
"""OpenAI's word for a probability of nothing, because JSON has no infinity."""

# UNSET leaves a key out, None writes null: before the end `finish_reason` is null and `usage` is not there.


class StreamUsage(Enum):
    """Where a stream has its usage: in the chunk that has the last `finish_reason`, or in one of its own behind it, as
    `stream_options.include_usage` asks for.
    """

    WITH_FINISH = auto()
    OWN_CHUNK = auto()


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


class _Likely(Struct):
    token: str
    logprob: float
    bytes: tuple[int, ...]


class _Token(_Likely):
    top_logprobs: tuple[_Likely, ...]


class _Logprobs(Struct):
    content: tuple[_Token, ...]


class _ChunkChoice(Struct):
    index: int
    delta: _Delta
    logprobs: _Logprobs | UnsetType
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
    prompt_tokens_details: _CachedTokens
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
    reasoning_content: str | UnsetType
    tool_calls: tuple[_Call, ...] | UnsetType


class _Choice(Struct):
    index: int
    message: _Message
    logprobs: _Logprobs | UnsetType
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
    """Writes the replies to one request as whole server-sent events, in the order of the contract (§1.8): `roles`, any
    `event`s, `finish`, then `DONE`. Lines end with LF alone: the gateway finds no event in a stream with CRLF.

    The usage is where `StreamUsage` says. So no event has empty `choices` unless the client has asked for that.
    """

    __slots__ = ("_created", "_id", "_model", "_usage")

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 - the wire's word
        created: int,
        model: str,
        usage: StreamUsage = StreamUsage.WITH_FINISH,
    ) -> None:
        """`created` is a Unix time in seconds, `model` the name the client used."""
        self._id = id
        self._created = created
        self._model = model
        self._usage = usage

    def roles(self, choices: int) -> bytes:
        """The opening event of each choice, sent before the first token is there."""
        return b"".join(self._choice(index, _Delta(role="assistant", content="")) for index in range(choices))

    def event(self, event: TextDelta | ReasoningDelta | ToolCall) -> bytes:
        """A piece of a reply."""
        match event:
            case TextDelta():
                return self._choice(event.choice, _Delta(content=event.text), logprobs=_logprobs(event.logprobs))
            case ReasoningDelta():
                return self._choice(event.choice, _Delta(reasoning_content=event.text))
            case ToolCall():
                call = _CallDelta(index=event.index, id=event.id, function=_Function(event.name, event.arguments))
                return self._choice(event.choice, _Delta(tool_calls=(call,)))
            case _:
                assert_never(event)

    def finish(self, reasons: Sequence[FinishReason], usage: Usage) -> bytes:
        """The end of each choice, and the bill, which is for all of them: with the last one's end, or behind it."""
        *others, last = reasons
        ends = [self._choice(i, _Delta(), finish_reason=reason) for i, reason in enumerate(others)]
        index, bill = len(others), _usage(usage)
        if self._usage is StreamUsage.WITH_FINISH:
            ends.append(self._choice(index, _Delta(), finish_reason=last, usage=bill))
        else:
            ends += [self._choice(index, _Delta(), finish_reason=last), self._chunk(choices=(), usage=bill)]
        return b"".join(ends)

    @staticmethod
    def error(envelope: bytes) -> bytes:
        """The event for a reply that was lost half-way; `envelope` is the JSON that an HTTP answer would have."""
        return _event(envelope)

    def _choice(
        self,
        index: int,
        delta: _Delta,
        *,
        logprobs: _Logprobs | UnsetType = UNSET,
        finish_reason: FinishReason | None = None,
        usage: _Usage | UnsetType = UNSET,
    ) -> bytes:
        return self._chunk(choices=(_ChunkChoice(index, delta, logprobs, finish_reason),), usage=usage)

    def _chunk(self, *, choices: tuple[_ChunkChoice, ...], usage: _Usage | UnsetType = UNSET) -> bytes:
        chunk = _Chunk(id=self._id, created=self._created, model=self._model, choices=choices, usage=usage)
        return _event(_encode(chunk))


@dataclass(slots=True)
class _Gathered:
    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)


class ChatCollector:
    """Gathers the replies for a client that wants them whole: `add` every event, then take the `body`."""

    __slots__ = ("_choices", "_created", "_finished", "_id", "_model")

    def __init__(self, *, id: str, created: int, model: str) -> None:  # noqa: A002 - the wire's word
        """`created` is a Unix time in seconds, `model` the name the client used."""
        self._id = id
        self._created = created
        self._model = model
        self._choices: defaultdict[int, _Gathered] = defaultdict(_Gathered)
        self._finished: Finished | None = None

    def add(self, event: GenerationEvent) -> None:
        """Take the next event. Reasoning is no part of the answer and stands beside it, as in a stream."""
        match event:
            case TextDelta():
                self._choices[event.choice].texts.append(event.text)
                self._choices[event.choice].logprobs += event.logprobs
            case ToolCall():
                call = _Call(id=event.id, function=_Function(event.name, event.arguments))
                self._choices[event.choice].calls.append(call)
            case Finished():
                self._finished = event
            case ReasoningDelta():
                self._choices[event.choice].reasoning.append(event.text)
            case Started() | Embedding():
                pass
            case _:
                assert_never(event)

    def body(self) -> bytes:
        """The response as JSON; raises `ValueError` if no `Finished` came."""
        if self._finished is None:
            raise ValueError("the reply is not finished")
        return escape_line_breaks(
            _encode(
                _Completion(
                    id=self._id,
                    created=self._created,
                    model=self._model,
                    choices=tuple(self._choice(i, reason) for i, reason in enumerate(self._finished.reasons)),
                    usage=_usage(self._finished.usage),
                )
            )
        )

    def _choice(self, index: int, reason: FinishReason) -> _Choice:
        gathered = self._choices[index]
        message = _Message(
            role="assistant",
            content="".join(gathered.texts),
            reasoning_content="".join(gathered.reasoning) or UNSET,
            tool_calls=tuple(gathered.calls) or UNSET,
        )
        return _Choice(index, message, _logprobs(gathered.logprobs), reason)


def _logprobs(tokens: Sequence[TokenLogprob]) -> _Logprobs | UnsetType:
    """There only when tokens have some, which is when they were asked for."""
    if not tokens:
        return UNSET
    return _Logprobs(
        tuple(_Token(*_spelled(token), tuple(_Likely(*_spelled(top)) for top in token.top)) for token in tokens)
    )


def _spelled(token: TokenLogprob | Likely) -> tuple[str, float, tuple[int, ...]]:
    return token.piece.decode(errors="replace"), max(token.logprob, _VERY_UNLIKELY), tuple(token.piece)


def _usage(usage: Usage) -> _Usage:
    """Token counts as clients read them."""
    return _Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details=_CachedTokens(usage.cached_tokens),
        completion_tokens_details=_ReasoningTokens(usage.reasoning_tokens) if usage.reasoning_tokens else UNSET,
        helexa_timing=_Timing(usage.prefill_ms, usage.decode_ms, usage.prompt_tokens - usage.cached_tokens),
    )


def _event(payload: bytes) -> bytes:
    return b"data: " + escape_line_breaks(payload) + b"\n\n"
