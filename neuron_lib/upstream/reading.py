"""The chunks of one reply as the events of a `neuron_lib.harness.Reply`. Pure.

Believes nothing: numbers of choices, calls and sizes are bounded, and what is no answer is an `EngineFailed`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from neuron_lib.errors import EngineFailed, NeuronError
from neuron_lib.shown import one_word
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
from neuron_lib.upstream.chunks import Call, Choice, Chunk, Delta, Function, Timings, Tokens, decode_chunk
from neuron_lib.upstream.logprobs import tokens_of
from neuron_lib.upstream.refusals import failure_of

__all__ = ("ReplyReading",)

_DONE: Final = b"[DONE]"
_MOST_CALLS: Final = 1024
_MOST_ARGUMENT_BYTES: Final = 8 << 20
_LONGEST_NAME: Final = 1024
_LARGEST_COUNT: Final = 1 << 40
_REASONS: Final = {
    "length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
}
"""Every other word means that the model ended by itself: `stop`, and what servers say instead (`eos`, `end_turn`)."""
_BROKEN_REASONS: Final = frozenset({"abort", "content_filter", "error"})
_OPEN, _CLOSE = "<think>\n", "\n</think>\n\n"


@dataclass(slots=True)
class _OpenCall:
    """A call whose pieces still come."""

    key: int | None
    id: str
    name: str = ""
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Choice:
    reason: FinishReason | None = None
    stop: str | None = None
    call: _OpenCall | None = None
    calls: int = 0
    argument_bytes: int = 0
    deltas: int = 0
    reasoning_deltas: int = 0
    is_in_reasoning: bool = False


class ReplyReading:
    """Reads one reply to a `Chat` or a `Complete`.

    `feed` takes the data of each event. `end` says what the end of the bytes means. `is_done` becomes true when the
    server has said that nothing more comes.
    """

    def __init__(
        self,
        *,
        choices: int,
        prompt_tokens: int,
        token_hex: Callable[[int], str],
        stop: tuple[str, ...] = (),
        include_thinking: bool = False,
    ) -> None:
        """`prompt_tokens` is a guess, for a server that does not count. `token_hex` makes ids for calls without one.

        `stop` are the stop strings of the request. With `include_thinking` reasoning becomes a part of the text,
        between `<think>` and `</think>`.
        """
        self.is_done: bool = False
        self.has_begun: bool = False
        """Whether `Started` was given."""
        self._choices: Final = [_Choice() for _ in range(choices)]
        self._guess: Final = prompt_tokens
        self._token_hex: Final = token_hex
        self._stop: Final = stop
        self._include_thinking: Final = include_thinking
        self._tokens: Tokens | None = None
        self._timings: Timings | None = None

    @property
    def usage(self) -> Usage:
        """What the server has told so far, or else a count of the events with content."""
        tokens = self._tokens
        counted = sum(choice.deltas for choice in self._choices)
        if tokens is None or tokens.prompt_tokens is None:
            reasoning = sum(choice.reasoning_deltas for choice in self._choices)
            return Usage(
                prompt_tokens=self._guess, completion_tokens=counted, reasoning_tokens=reasoning, is_estimated=True
            )
        inside, details = tokens.prompt_tokens_details, tokens.completion_tokens_details
        timings = self._timings or Timings()
        prompt_tokens = _count(tokens.prompt_tokens)
        told = tokens.completion_tokens
        return Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=counted if told is None else _count(told),
            cached_tokens=min(prompt_tokens, _count(None if inside is None else inside.cached_tokens)),
            reasoning_tokens=_count(None if details is None else details.reasoning_tokens),
            prefill_ms=_count(timings.prompt_ms),
            decode_ms=_count(timings.predicted_ms),
            is_estimated=told is None,
        )

    def feed(self, data: bytes) -> list[GenerationEvent]:
        """What the data of one event means. Raises `EngineFailed` for an error of the server, and for garbage."""
        if self.is_done:
            return []
        if data.strip() == _DONE:
            self.is_done = True
            return self._finish()
        try:
            chunk = decode_chunk(data)
        except ValueError as error:
            raise EngineFailed(f"the server sent no JSON of a reply: {one_word(type(error).__name__)}") from None
        failure = _failure(chunk)
        if failure is not None:
            raise failure
        self._tokens = chunk.usage or self._tokens
        self._timings = chunk.timings or self._timings
        events: list[EventBeforeEnd] = []
        for choice in chunk.choices or ():
            events += self._take(choice)
        return [*self._opening(chunk, events), *events]

    def end(self) -> list[GenerationEvent]:
        """The bytes have ended as they should. Raises `EngineFailed` if the reply has not."""
        if self.is_done:
            return []
        self.is_done = True
        if not self.is_whole:
            raise EngineFailed("the server's answer ended before the reply did")
        return self._finish()

    @property
    def is_whole(self) -> bool:
        """Whether every choice has said why it ended."""
        return all(choice.reason is not None for choice in self._choices)

    def _opening(self, chunk: Chunk, events: list[EventBeforeEnd]) -> list[EventBeforeEnd]:
        """The start, at the first chunk that says anything about the reply."""
        if self.has_begun or not (events or chunk.choices or chunk.usage):
            return []
        self.has_begun = True
        return [Started(prompt_tokens=self.usage.prompt_tokens)]

    def _finish(self) -> list[GenerationEvent]:
        events: list[GenerationEvent] = [] if self.has_begun else [Started(prompt_tokens=self.usage.prompt_tokens)]
        self.has_begun = True
        for number, choice in enumerate(self._choices):
            events += self._close(number, choice)
        if any(choice.reason is None for choice in self._choices):
            raise EngineFailed("the server did not say why the reply ended")
        reasons = tuple(self._reason(choice) for choice in self._choices)
        stops = tuple(choice.stop for choice in self._choices)
        finished = Finished(reasons=reasons, usage=self.usage, stop_strings=stops if any(stops) else ())
        return [*events, finished]

    @staticmethod
    def _reason(choice: _Choice) -> FinishReason:
        assert choice.reason is not None  # looked at before
        # Some servers say "stop" behind calls.
        is_call = choice.calls > 0 and choice.reason is FinishReason.STOP
        return FinishReason.TOOL_CALLS if is_call else choice.reason

    # ----------------------------------------------------------------------------------------------------- one choice

    def _take(self, told: Choice) -> list[EventBeforeEnd]:
        if not 0 <= told.index < len(self._choices):
            raise EngineFailed(f"the server sent choice {told.index} of {len(self._choices)}")
        number, choice = told.index, self._choices[told.index]
        delta = told.delta or told.message or Delta()
        events = self._reasoning(number, choice, delta)
        text = "".join(part for part in (delta.content, delta.refusal, told.text) if part)
        logprobs = tokens_of(told.logprobs)
        if text or logprobs:
            events += self._end_reasoning(number, choice)
            events += self._close(number, choice)
            choice.deltas += len(logprobs) or 1
            events.append(TextDelta(text, number, logprobs))
        for call in self._calls(delta):
            events += self._end_reasoning(number, choice)
            events += self._piece(number, choice, call)
        if told.finish_reason:
            events += self._end_reasoning(number, choice)
            self._end_choice(choice, told)
            events += self._close(number, choice)
        return events

    def _reasoning(self, number: int, choice: _Choice, delta: Delta) -> list[EventBeforeEnd]:
        text = delta.reasoning_content if delta.reasoning_content is not None else delta.reasoning
        if not text:
            return []
        events = self._close(number, choice)
        choice.deltas += 1
        choice.reasoning_deltas += 1
        if not self._include_thinking:
            return [*events, ReasoningDelta(text, number)]
        opening = "" if choice.is_in_reasoning else _OPEN
        choice.is_in_reasoning = True
        return [*events, TextDelta(opening + text, number)]

    @staticmethod
    def _end_reasoning(number: int, choice: _Choice) -> list[EventBeforeEnd]:
        if not choice.is_in_reasoning:
            return []
        choice.is_in_reasoning = False
        return [TextDelta(_CLOSE, number)]

    def _end_choice(self, choice: _Choice, told: Choice) -> None:
        word = told.finish_reason or ""
        if word in _BROKEN_REASONS:
            raise EngineFailed(f"the server broke the reply off: {word}")
        choice.reason = _REASONS.get(word, FinishReason.STOP)
        if isinstance(told.stop_reason, str) and told.stop_reason in self._stop:
            choice.stop = told.stop_reason

    # ---------------------------------------------------------------------------------------------- the calls of tools

    @staticmethod
    def _calls(delta: Delta) -> list[Call]:
        """The pieces of calls, those of the older `function_call` included."""
        calls = delta.tool_calls or []
        return calls if delta.function_call is None else [*calls, Call(index=0, function=delta.function_call)]

    def _piece(self, number: int, choice: _Choice, piece: Call) -> list[EventBeforeEnd]:
        """Take a piece of a call. A new index, or a new name with a new id, begins the next call."""
        events: list[EventBeforeEnd] = []
        function = piece.function or Function()
        call = choice.call
        is_new_index = call is not None and piece.index is not None and piece.index != call.key
        is_renamed = call is not None and bool(function.name and piece.id and piece.id != call.id)
        if call is None or is_new_index or is_renamed:
            if not function.name:
                raise EngineFailed("the server sent a piece of a call without the name of the tool")
            events += self._close(number, choice)
            call = choice.call = _OpenCall(piece.index, piece.id or f"call_{self._token_hex(8)}_{choice.calls}")
            if choice.calls >= _MOST_CALLS:
                raise EngineFailed(f"the server sent more than {_MOST_CALLS} calls of tools")
        call.name = (call.name or function.name or "")[:_LONGEST_NAME]
        text = _arguments(function)
        choice.argument_bytes += len(text)
        if choice.argument_bytes > _MOST_ARGUMENT_BYTES:
            raise EngineFailed(f"the server sent more than {_MOST_ARGUMENT_BYTES} bytes of arguments of tools")
        choice.deltas += 1
        call.arguments.append(text)
        return events

    def _close(self, number: int, choice: _Choice) -> list[EventBeforeEnd]:
        """The call that is complete now, if there is one. One that was cut off because the reply became too long is
        dropped.
        """
        call, choice.call = choice.call, None
        if call is None:
            return []
        arguments = "".join(call.arguments).strip() or "{}"
        if not _is_object(arguments):
            if choice.reason is FinishReason.LENGTH:
                return []
            raise EngineFailed("the model called a tool with arguments that are no JSON object")
        event = ToolCall(index=choice.calls, id=call.id, name=call.name, arguments=arguments, choice=number)
        choice.calls += 1
        return [event]


def _failure(chunk: Chunk) -> NeuronError | None:
    """The error that an event of the stream tells of."""
    if bytes(chunk.error) not in {b"null", b'""'}:
        return failure_of(bytes(chunk.error))
    if chunk.object == "error":
        return failure_of(msgspec.json.encode({"message": chunk.message}))
    return None


def _arguments(function: Function) -> str:
    text = bytes(function.arguments)
    if text == b"null":
        return ""
    return msgspec.json.decode(text, type=str) if text.startswith(b'"') else text.decode()


def _is_object(text: str) -> bool:
    try:
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (ValueError, RecursionError):
        return False
    return True


def _count(number: float | None) -> int:
    """A count that a server told, where it can be one."""
    if number is None or not 0 <= number <= _LARGEST_COUNT:
        return 0
    return round(number)
