"""What a generation tells its reader, in order: one `Started`, any deltas, one `Finished`."""

from enum import StrEnum
from typing import TypeAlias

from msgspec import Struct

__all__ = (
    "FinishReason",
    "Finished",
    "GenerationEvent",
    "ReasoningDelta",
    "Started",
    "TextDelta",
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
    `cached_tokens` is the part of `prompt_tokens` that was not computed. Times are whole milliseconds.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    prefill_ms: int = 0
    decode_ms: int = 0


class Started(Struct, frozen=True, kw_only=True, tag=True):
    """The request was admitted; prefill begins."""

    prompt_tokens: int


class TextDelta(Struct, frozen=True, tag=True):
    """More of the answer; whole code points, never empty."""

    text: str


class ReasoningDelta(Struct, frozen=True, tag=True):
    """More of the model's reasoning, without its markers."""

    text: str


class ToolCall(Struct, frozen=True, kw_only=True, tag=True):
    """One complete call of a tool; `arguments` is a JSON text."""

    index: int
    id: str
    name: str
    arguments: str


class Finished(Struct, frozen=True, kw_only=True, tag=True):
    """The reply is complete."""

    reason: FinishReason
    usage: Usage


GenerationEvent: TypeAlias = Started | TextDelta | ReasoningDelta | ToolCall | Finished
