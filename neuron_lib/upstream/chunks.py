"""The JSON of the answers of an API like OpenAI's, as lenient as servers differ. Pure: shapes and nothing else."""

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

__all__ = (
    "NOTHING",
    "Call",
    "Choice",
    "Chunk",
    "Delta",
    "Function",
    "Likely",
    "Logprobs",
    "Timings",
    "Tokens",
    "decode_chunk",
)

NOTHING: Final = Raw(b"null")
"""The default of a value that stays text."""


class Function(Struct):
    """The function that is called. `arguments` is a piece of JSON text, or at some servers an object."""

    name: str | None = None
    arguments: Raw = NOTHING


class Call(Struct):
    """A piece of a call of a tool. Some servers leave the index out."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None


class Delta(Struct):
    """More of a choice, or the whole of it. `reasoning_content` is the usual field of reasoning, `reasoning` that of
    OpenRouter and of newer versions of vLLM. `refusal` is what OpenAI's models say in place of an answer.
    """

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[Call] | None = None
    function_call: Function | None = None


class Likely(Struct):
    """A token of OpenAI's newer log-probabilities."""

    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: "list[Likely] | None" = None


class Logprobs(Struct):
    """The log-probabilities of a choice: `content` in chats, the other keys in completions."""

    content: list[Likely] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class Choice(Struct):
    """One choice: `delta` in the stream of a chat, `message` in one that comes whole, `text` in a completion.

    `stop_reason` is the stop string that ended it, at vLLM and at a neuron.
    """

    index: int = 0
    delta: Delta | None = None
    message: Delta | None = None
    text: str | None = None
    logprobs: Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None


class _PromptDetails(Struct):
    cached_tokens: int | None = None


class _CompletionDetails(Struct):
    reasoning_tokens: int | None = None


class Tokens(Struct):
    """The usage."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


class Timings(Struct):
    """llama.cpp's times, in milliseconds."""

    cache_n: float | None = None
    prompt_ms: float | None = None
    predicted_ms: float | None = None


class Chunk(Struct):
    """One event of a stream, or a whole answer. `error` is there if the reply has broken off."""

    object: str | None = None
    choices: list[Choice] | None = None
    usage: Tokens | None = None
    timings: Timings | None = None
    error: Raw = NOTHING
    message: Any = None


_decoder: Final = msgspec.json.Decoder(Chunk, strict=False)


def decode_chunk(data: bytes) -> Chunk:
    """The chunk in `data`. Raises `ValueError` for what is none."""
    try:
        return _decoder.decode(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
