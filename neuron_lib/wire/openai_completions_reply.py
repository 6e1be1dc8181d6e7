"""Writes the replies of OpenAI's `POST /v1/completions`, as server-sent events or as one body.

Pure. Knows no status codes and opens no connection.
"""

import codecs
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from neuron_lib.errors import NeuronError
from neuron_lib.types import (
    EventBeforeEnd,
    Finished,
    FinishReason,
    GenerationEvent,
    Likely,
    TextDelta,
    TokenLogprob,
    Usage,
)
from neuron_lib.wire.line_breaks import escape_line_breaks
from neuron_lib.wire.openai_errors import envelope
from neuron_lib.wire.openai_logprobs import VERY_UNLIKELY
from neuron_lib.wire.openai_usage import OpenAiUsage, openai_usage
from neuron_lib.wire.reply_account import SYSTEM_FINGERPRINT, Timings, timings_of
from neuron_lib.wire.sse import DONE, server_sent_event

__all__ = ("Completion", "CompletionCollector", "CompletionStreamEncoder")


class _Logprobs(Struct):
    """One entry of each list for each token. `text_offset` counts the characters of the choice's text before the token.

    A token that is not a text by itself is written as `bytes:` with its bytes in hexadecimal, like OpenAI's.
    """

    tokens: tuple[str, ...]
    token_logprobs: tuple[float, ...]
    top_logprobs: tuple[dict[str, float], ...]
    text_offset: tuple[int, ...]


class _Choice(Struct):
    text: str
    index: int
    logprobs: _Logprobs | None
    finish_reason: FinishReason | None


class Completion(Struct, kw_only=True):
    """A whole reply, or an event of a stream. `finish_reason` is null before the end of a choice."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str = SYSTEM_FINGERPRINT
    choices: tuple[_Choice, ...]
    usage: OpenAiUsage | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET


_encode: Final = msgspec.json.Encoder().encode


class CompletionStreamEncoder:
    """Writes the choices of one reply as one stream; see `neuron_lib.wire.dialect.StreamEncoder`.

    The usage and the timings are in the event with the last `finish_reason`. With `include_usage` they are in an event
    of their own behind that one, whose `choices` are empty. No other event has empty `choices`. With `continuous_usage`
    every event has the usage up to then.
    """

    __slots__ = ("_continuous_usage", "_created", "_id", "_include_usage", "_model", "_places", "_usage_so_far")

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 - the wire's word
        created: int,
        model: str,
        choices: int = 1,
        include_usage: bool = False,
        continuous_usage: bool = False,
    ) -> None:
        """`created` is a Unix time in seconds and `model` the id that the client wrote."""
        self._id = id
        self._created = created
        self._model = model
        self._include_usage = include_usage
        self._continuous_usage = continuous_usage
        self._usage_so_far: Callable[[], Usage] | None = None
        self._places = [_Places() for _ in range(choices)]

    def follow(self, usage: Callable[[], Usage]) -> None:
        """See `neuron_lib.wire.dialect.FollowsUsage`."""
        if self._continuous_usage:
            self._usage_so_far = usage

    def opening(self) -> bytes:
        """Nothing: the first event is the first text."""
        return b""

    def event(self, event: EventBeforeEnd) -> bytes:
        """A piece of a choice."""
        if not isinstance(event, TextDelta):
            return b""  # a text that is continued has no reasoning and no calls
        logprobs = _logprobs(event.logprobs, self._places[event.choice])
        return self._chunk(_Choice(event.text, event.choice, logprobs, None))

    def ending(self, finished: Finished) -> bytes:
        """The `finish_reason` of each choice, the usage of all of them, and `[DONE]`."""
        return self._ends(finished.reasons, finished.usage) + DONE

    def error(self, error: NeuronError, usage: Usage) -> bytes:
        """The end of each choice as if it had become too long, then an event with the error, and no `[DONE]`."""
        reasons = (FinishReason.LENGTH,) * len(self._places)
        return self._ends(reasons, usage) + server_sent_event(envelope(error))

    def _ends(self, reasons: Sequence[FinishReason], usage: Usage) -> bytes:
        choices = [_Choice("", index, None, reason) for index, reason in enumerate(reasons)]
        if self._include_usage:
            return b"".join(map(self._chunk, choices)) + self._chunk(total=usage)
        *others, last = choices
        return b"".join(map(self._chunk, others)) + self._chunk(last, total=usage)

    def _chunk(self, *choices: _Choice, total: Usage | None = None) -> bytes:
        """One event. `total` is what the whole reply has cost, for the last event."""
        chunk = Completion(id=self._id, created=self._created, model=self._model, choices=choices)
        if total is not None:
            chunk.usage, chunk.timings = openai_usage(total), timings_of(total)
        elif self._usage_so_far is not None:
            chunk.usage = openai_usage(self._usage_so_far())
        return server_sent_event(_encode(chunk))


@dataclass(slots=True)
class _Gathered:
    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)


class CompletionCollector:
    """Collects the choices of one reply into one body; see `neuron_lib.wire.dialect.Collector`."""

    __slots__ = ("_choices", "_created", "_finished", "_id", "_model")

    def __init__(self, *, id: str, created: int, model: str) -> None:  # noqa: A002 - the wire's word
        """The arguments are those of `CompletionStreamEncoder`."""
        self._id = id
        self._created = created
        self._model = model
        self._choices: defaultdict[int, _Gathered] = defaultdict(_Gathered)
        self._finished: Finished | None = None

    def add(self, event: GenerationEvent) -> None:
        """Take the next event."""
        if isinstance(event, Finished):
            self._finished = event
        elif isinstance(event, TextDelta):
            gathered = self._choices[event.choice]
            gathered.texts.append(event.text)
            gathered.logprobs += event.logprobs

    def body(self) -> bytes:
        """The body as JSON. Raises `ValueError` before `Finished` has been added."""
        if self._finished is None:
            raise ValueError("the reply is not finished")
        completion = Completion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=tuple(self._choice(index, reason) for index, reason in enumerate(self._finished.reasons)),
            usage=openai_usage(self._finished.usage),
            timings=timings_of(self._finished.usage),
        )
        return escape_line_breaks(_encode(completion))

    def _choice(self, index: int, reason: FinishReason) -> _Choice:
        gathered = self._choices[index]
        return _Choice("".join(gathered.texts), index, _logprobs(gathered.logprobs, _Places()), reason)


class _Places:
    """Where the tokens of one choice begin in its text, in characters. One instance for each choice, for all of it.

    A token that begins inside a character begins where the character does.
    """

    __slots__ = ("_decoder", "_written")

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # decodes as the engine does
        self._written = 0

    def take(self, tokens: Iterable[TokenLogprob]) -> Iterator[int]:
        """The places of the next tokens."""
        for token in tokens:
            yield self._written
            self._written += len(self._decoder.decode(token.piece))


def _logprobs(tokens: Sequence[TokenLogprob], places: _Places) -> _Logprobs | None:
    """None unless tokens have log-probabilities. They have some only if the client asked for them."""
    if not tokens:
        return None
    return _Logprobs(
        tuple(_spelled(token.piece) for token in tokens),
        tuple(max(token.logprob, VERY_UNLIKELY) for token in tokens),
        tuple(_top(token) for token in tokens),
        tuple(places.take(tokens)),
    )


def _top(token: TokenLogprob) -> dict[str, float]:
    """The likeliest tokens, and the chosen one if it is not among them. The first of those that look alike counts."""
    top: dict[str, float] = {}
    for likely in (*token.top, Likely(token.piece, token.logprob)):
        top.setdefault(_spelled(likely.piece), max(likely.logprob, VERY_UNLIKELY))
    return top


def _spelled(piece: bytes) -> str:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
