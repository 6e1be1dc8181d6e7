"""The events of a reply, in order: one `Started`, any number of deltas, tool calls, vectors or others, one `Finished`.

`choice` is the number of the choice, from 0. It is always 0 unless the request asks for several choices.
"""

from enum import StrEnum
from typing import TypeAlias

from msgspec import Struct

__all__ = (
    "Detokenized",
    "Embedding",
    "EventBeforeEnd",
    "FinishReason",
    "Finished",
    "GenerationEvent",
    "Likely",
    "ReasoningDelta",
    "Relevance",
    "Started",
    "TextDelta",
    "TokenLogprob",
    "Tokenized",
    "ToolCall",
    "Usage",
)


class FinishReason(StrEnum):
    """Why a reply ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


class Usage(Struct, frozen=True, kw_only=True):
    """Token counts and timings of one finished request.

    `completion_tokens` counts every generated token, reasoning included, the end-of-generation token excluded.
    `cached_tokens` is the part of `prompt_tokens` that was not computed. Times are whole milliseconds: `queue_ms` from
    the request's arrival at the engine to its beginning, the others of the steps that it was in. `is_estimated` says
    that the tokens were not counted by whoever has computed them.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    queue_ms: int = 0
    prefill_ms: int = 0
    decode_ms: int = 0
    is_estimated: bool = False


class Started(Struct, frozen=True, kw_only=True, tag=True):
    """The request has its seats, and its prompt is read from now on."""

    prompt_tokens: int


class Likely(Struct, frozen=True, array_like=True):
    """A token that was likely: its bytes, which may be part of a code point, and the logarithm of its probability."""

    piece: bytes
    logprob: float


class TokenLogprob(Struct, frozen=True, array_like=True):
    """The token that was chosen, and the likeliest ones in its place, most likely first.

    Probabilities are the model's own, before any penalty, filter or temperature.
    """

    piece: bytes
    logprob: float
    top: tuple[Likely, ...] = ()


class TextDelta(Struct, frozen=True, tag=True):
    """More of the answer, in whole code points. Empty only if the event has `logprobs` of tokens without text."""

    text: str
    choice: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


class ReasoningDelta(Struct, frozen=True, tag=True):
    """More of the model's reasoning, without its markers."""

    text: str
    choice: int = 0


class ToolCall(Struct, frozen=True, kw_only=True, tag=True):
    """One complete call of a tool; `arguments` is a JSON text."""

    index: int
    id: str
    name: str
    arguments: str
    choice: int = 0


class Embedding(Struct, frozen=True, tag=True):
    """The vector of one input. `index` is the number of the input, from 0."""

    index: int
    vector: tuple[float, ...]


class Relevance(Struct, frozen=True, tag=True):
    """How well one document answers the query, from 0 to 1. `index` is the number of the document, from 0."""

    index: int
    score: float


class Tokenized(Struct, frozen=True, kw_only=True, tag=True):
    """The tokens of a prompt. `text` and `pieces` are empty unless the task wants them.

    `text` is the prompt as it was read. `pieces` has the bytes of each token, which may be a part of a code point.
    Special tokens are spelled. `context` is how many tokens a prompt and its reply can have together, 0 where that is
    not known.
    """

    tokens: tuple[int, ...]
    context: int = 0
    text: str = ""
    pieces: tuple[bytes, ...] = ()


class Detokenized(Struct, frozen=True, tag=True):
    """The text of the tokens. Bytes that are not UTF-8 are U+FFFD."""

    text: str


class Finished(Struct, frozen=True, kw_only=True, tag=True):
    """All choices are complete. There is one reason for each choice, and one for all vectors or scores.

    `stop_strings` has, for each choice, the stop string of the request at which the choice ended, None if the choice
    ended otherwise. It is empty if no choice ended at a stop string.
    """

    reasons: tuple[FinishReason, ...]
    usage: Usage
    stop_strings: tuple[str | None, ...] = ()

    @property
    def reason(self) -> FinishReason:
        """Why the first choice ended."""
        return self.reasons[0]


EventBeforeEnd: TypeAlias = (
    Started | TextDelta | ReasoningDelta | ToolCall | Embedding | Relevance | Tokenized | Detokenized
)
"""Every event of a reply except its last one."""

GenerationEvent: TypeAlias = EventBeforeEnd | Finished
