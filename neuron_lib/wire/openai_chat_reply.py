"""Writes the replies of OpenAI's `POST /v1/chat/completions`, as server-sent events or as one body.

Pure. Knows no status codes and opens no connection.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, assert_never

import msgspec
from msgspec import UNSET, Struct, UnsetType

from neuron_lib.errors import NeuronError
from neuron_lib.types import (
    Detokenized,
    Embedding,
    EventBeforeEnd,
    Finished,
    FinishReason,
    GenerationEvent,
    ReasoningDelta,
    Relevance,
    Started,
    TextDelta,
    Tokenized,
    TokenLogprob,
    ToolCall,
    Usage,
)
from neuron_lib.wire.line_breaks import escape_line_breaks
from neuron_lib.wire.openai_errors import envelope
from neuron_lib.wire.openai_logprobs import WrittenToken, written
from neuron_lib.wire.openai_usage import OpenAiUsage, openai_usage
from neuron_lib.wire.reply_account import SYSTEM_FINGERPRINT, Timings, timings_of
from neuron_lib.wire.sse import DONE, server_sent_event

__all__ = ("ChatChunk", "ChatCollector", "ChatCompletion", "ChatStreamEncoder")

# UNSET leaves a key out and None writes null. Before the end `finish_reason` is null and `usage` is left out.


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
    function_call: _Function | UnsetType = UNSET


_Reason: TypeAlias = Literal["stop", "length", "tool_calls", "function_call"]
"""Why a choice ended. "function_call" is what a client of the older `functions` expects in place of "tool_calls"."""

_REASONS: Final[dict[FinishReason, _Reason]] = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.TOOL_CALLS: "tool_calls",
}


class _Logprobs(Struct):
    content: tuple[WrittenToken, ...]


class _ChunkChoice(Struct):
    index: int
    delta: _Delta
    logprobs: _Logprobs | UnsetType
    finish_reason: _Reason | None


class ChatChunk(Struct, kw_only=True):
    """The data of an event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str = SYSTEM_FINGERPRINT
    choices: tuple[_ChunkChoice, ...]
    usage: OpenAiUsage | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET


class _Call(Struct, kw_only=True):
    id: str
    type: Literal["function"] = "function"
    function: _Function


class _Message(Struct):
    role: Literal["assistant"]
    content: str
    reasoning_content: str | UnsetType
    tool_calls: tuple[_Call, ...] | UnsetType
    function_call: _Function | UnsetType


class _Choice(Struct):
    index: int
    message: _Message
    logprobs: _Logprobs | UnsetType
    finish_reason: _Reason


class ChatCompletion(Struct, kw_only=True):
    """The body of a whole reply."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str = SYSTEM_FINGERPRINT
    choices: tuple[_Choice, ...]
    usage: OpenAiUsage
    timings: Timings


_encode: Final = msgspec.json.Encoder().encode


class ChatStreamEncoder:
    """Writes the choices of one reply as one stream; see `neuron_lib.wire.dialect.StreamEncoder`.

    The usage and the timings are in the event with the last `finish_reason`. With `include_usage` they are in an event
    of their own behind that one, whose `choices` are empty. No other event has empty `choices`. With `continuous_usage`
    every event has the usage up to then.
    """

    __slots__ = (
        "_calls_functions",
        "_choices",
        "_continuous_usage",
        "_created",
        "_id",
        "_include_usage",
        "_model",
        "_parallel_tool_calls",
        "_usage_so_far",
    )

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 - the wire's word
        created: int,
        model: str,
        choices: int = 1,
        include_usage: bool = False,
        continuous_usage: bool = False,
        parallel_tool_calls: bool = True,
        calls_functions: bool = False,
    ) -> None:
        """`created` is a Unix time in seconds and `model` the id that the client wrote.

        Without `parallel_tool_calls` only the first tool call of each choice is written. With `calls_functions` the
        first call is written as a `function_call`, and there are no others.
        """
        self._id = id
        self._created = created
        self._model = model
        self._choices = choices
        self._include_usage = include_usage
        self._continuous_usage = continuous_usage
        self._parallel_tool_calls = parallel_tool_calls and not calls_functions
        self._calls_functions = calls_functions
        self._usage_so_far: Callable[[], Usage] | None = None

    def follow(self, usage: Callable[[], Usage]) -> None:
        """See `neuron_lib.wire.dialect.FollowsUsage`."""
        if self._continuous_usage:
            self._usage_so_far = usage

    def opening(self) -> bytes:
        """The role of each choice."""
        return b"".join(self._choice(index, _Delta(role="assistant", content="")) for index in range(self._choices))

    def event(self, event: EventBeforeEnd) -> bytes:
        """A piece of a choice."""
        match event:
            case TextDelta():
                return self._choice(event.choice, _Delta(content=event.text), logprobs=_logprobs(event.logprobs))
            case ReasoningDelta():
                return self._choice(event.choice, _Delta(reasoning_content=event.text))
            case ToolCall():
                if event.index and not self._parallel_tool_calls:
                    return b""
                function = _Function(event.name, event.arguments)
                if self._calls_functions:
                    return self._choice(event.choice, _Delta(function_call=function))
                call = _CallDelta(index=event.index, id=event.id, function=function)
                return self._choice(event.choice, _Delta(tool_calls=(call,)))
            case Started() | Embedding() | Relevance() | Tokenized() | Detokenized():
                return b""
            case _:
                assert_never(event)

    def ending(self, finished: Finished) -> bytes:
        """The `finish_reason` of each choice, the usage of all of them, and `[DONE]`."""
        return self._ends(finished.reasons, finished.usage) + DONE

    def error(self, error: NeuronError, usage: Usage) -> bytes:
        """The end of each choice as if it had become too long, then an event with the error, and no `[DONE]`.

        The gateway takes a stream that just stops for one that ended well, and bills a wrong number of tokens.
        """
        return self._ends((FinishReason.LENGTH,) * self._choices, usage) + server_sent_event(envelope(error))

    def _ends(self, reasons: Sequence[FinishReason], usage: Usage) -> bytes:
        *others, last = reasons
        ends = [self._choice(index, _Delta(), finish_reason=reason) for index, reason in enumerate(others)]
        if self._include_usage:
            ends.append(self._choice(len(others), _Delta(), finish_reason=last))
            ends.append(self._chunk(choices=(), total=usage))
        else:
            ends.append(self._choice(len(others), _Delta(), finish_reason=last, total=usage))
        return b"".join(ends)

    def _choice(
        self,
        index: int,
        delta: _Delta,
        *,
        logprobs: _Logprobs | UnsetType = UNSET,
        finish_reason: FinishReason | None = None,
        total: Usage | None = None,
    ) -> bytes:
        reason = None if finish_reason is None else _reason(finish_reason, calls_functions=self._calls_functions)
        return self._chunk(choices=(_ChunkChoice(index, delta, logprobs, reason),), total=total)

    def _chunk(self, *, choices: tuple[_ChunkChoice, ...], total: Usage | None = None) -> bytes:
        """One event. `total` is what the whole reply has cost, for the last event."""
        chunk = ChatChunk(id=self._id, created=self._created, model=self._model, choices=choices)
        if total is not None:
            chunk.usage, chunk.timings = openai_usage(total), timings_of(total)
        elif self._usage_so_far is not None:
            chunk.usage = openai_usage(self._usage_so_far())
        return server_sent_event(_encode(chunk))


@dataclass(slots=True)
class _Gathered:
    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)


class ChatCollector:
    """Collects the choices of one reply into one body; see `neuron_lib.wire.dialect.Collector`."""

    __slots__ = ("_calls_functions", "_choices", "_created", "_finished", "_id", "_model", "_parallel_tool_calls")

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 - the wire's word
        created: int,
        model: str,
        parallel_tool_calls: bool = True,
        calls_functions: bool = False,
    ) -> None:
        """The arguments are those of `ChatStreamEncoder`."""
        self._id = id
        self._created = created
        self._model = model
        self._parallel_tool_calls = parallel_tool_calls and not calls_functions
        self._calls_functions = calls_functions
        self._choices: defaultdict[int, _Gathered] = defaultdict(_Gathered)
        self._finished: Finished | None = None

    def add(self, event: GenerationEvent) -> None:
        """Take the next event. Reasoning is written beside the text, not as a part of the text."""
        match event:
            case TextDelta():
                self._choices[event.choice].texts.append(event.text)
                self._choices[event.choice].logprobs += event.logprobs
            case ToolCall():
                if self._parallel_tool_calls or not event.index:
                    call = _Call(id=event.id, function=_Function(event.name, event.arguments))
                    self._choices[event.choice].calls.append(call)
            case Finished():
                self._finished = event
            case ReasoningDelta():
                self._choices[event.choice].reasoning.append(event.text)
            case Started() | Embedding() | Relevance() | Tokenized() | Detokenized():
                pass
            case _:
                assert_never(event)

    def body(self) -> bytes:
        """The body as JSON. Raises `ValueError` before `Finished` has been added."""
        if self._finished is None:
            raise ValueError("the reply is not finished")
        return escape_line_breaks(
            _encode(
                ChatCompletion(
                    id=self._id,
                    created=self._created,
                    model=self._model,
                    choices=tuple(self._choice(i, reason) for i, reason in enumerate(self._finished.reasons)),
                    usage=openai_usage(self._finished.usage),
                    timings=timings_of(self._finished.usage),
                )
            )
        )

    def _choice(self, index: int, reason: FinishReason) -> _Choice:
        gathered = self._choices[index]
        message = _Message(
            role="assistant",
            content="".join(gathered.texts),
            reasoning_content="".join(gathered.reasoning) or UNSET,
            tool_calls=UNSET if self._calls_functions else tuple(gathered.calls) or UNSET,
            function_call=gathered.calls[0].function if self._calls_functions and gathered.calls else UNSET,
        )
        why = _reason(reason, calls_functions=self._calls_functions)
        return _Choice(index, message, _logprobs(gathered.logprobs), why)


def _reason(reason: FinishReason, *, calls_functions: bool) -> _Reason:
    return "function_call" if calls_functions and reason is FinishReason.TOOL_CALLS else _REASONS[reason]


def _logprobs(tokens: Sequence[TokenLogprob]) -> _Logprobs | UnsetType:
    """UNSET unless tokens have log-probabilities. They have some only if the client asked for them."""
    return _Logprobs(tuple(map(written, tokens))) if tokens else UNSET
