"""The answers that are no stream: vectors, scores and tokens, as our events. Pure."""

import math
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from neuron_lib.errors import EngineFailed, InvalidRequest
from neuron_lib.types import (
    Detokenize,
    Detokenized,
    Embed,
    Embedding,
    Finished,
    FinishReason,
    GenerationEvent,
    Relevance,
    Rerank,
    Started,
    Tokenize,
    Tokenized,
    Usage,
)

__all__ = ("MAX_ANSWER_BYTES", "events_of")

MAX_ANSWER_BYTES: Final = 64 << 20
"""The longest answer. All numbers of the largest request for vectors take 45 MB as JSON."""
_MOST_TOKENS: Final = 1 << 24
_LARGEST_COUNT: Final = 1 << 40

T = TypeVar("T")


class _Tokens(Struct):
    prompt_tokens: int | None = None
    total_tokens: int | None = None


class _Item(Struct):
    index: int
    embedding: list[float]


class _Vectors(Struct):
    data: list[_Item]
    usage: _Tokens | None = None


class _Ranked(Struct):
    index: int
    relevance_score: float


class _Ranking(Struct):
    results: list[_Ranked]
    usage: _Tokens | None = None


class _Piece(Struct):
    id: int
    piece: str | list[int]


class _Tokenized(Struct):
    tokens: list[int | _Piece]
    max_model_len: int = 0


class _Text(Struct):
    content: str


class _Prompt(Struct):
    prompt: str


def events_of(task: Embed | Rerank | Tokenize | Detokenize, body: bytes) -> list[GenerationEvent]:
    """All events of the reply to `task`. Raises `EngineFailed` for a body that is no answer to it, and `InvalidRequest`
    for vectors of another length than was asked for, because most servers ignore `dimensions` in silence.
    """
    match task:
        case Embed():
            vectors = _decode(body, _Vectors)
            _require_each([item.index for item in vectors.data], len(task.inputs))
            widths = {len(item.embedding) for item in vectors.data}
            if len(widths) != 1 or not all(math.isfinite(sum(item.embedding)) for item in vectors.data):
                raise EngineFailed("the server sent vectors of different lengths, or no numbers")
            if task.dimensions is not None and widths != {task.dimensions}:
                text = f"dimensions: the server of this model gave {widths.pop()} numbers instead of {task.dimensions}"
                raise InvalidRequest(text, param="dimensions", summary=text)
            made: list[GenerationEvent] = [Embedding(item.index, tuple(item.embedding)) for item in vectors.data]
            return _whole(made, _prompt_tokens(vectors.usage), is_estimated=vectors.usage is None)
        case Rerank():
            ranking = _decode(body, _Ranking)
            _require_each([item.index for item in ranking.results], len(task.documents))
            made = [Relevance(item.index, min(1.0, max(0.0, item.relevance_score))) for item in ranking.results]
            return _whole(made, _prompt_tokens(ranking.usage), is_estimated=ranking.usage is None)
        case Tokenize(wants_text=True, prompt=prompt) if not isinstance(prompt, str):
            return _whole([Tokenized(tokens=(), text=_decode(body, _Prompt).prompt)], 0)
        case Tokenize():
            tokens = _tokenized(task, _decode(body, _Tokenized))
            return _whole([tokens], len(tokens.tokens))
        case Detokenize():
            return _whole([Detokenized(_decode(body, _Text).content)], len(task.tokens))


def _tokenized(task: Tokenize, told: _Tokenized) -> Tokenized:
    if len(told.tokens) > _MOST_TOKENS:
        raise EngineFailed("the server sent too many tokens")
    pieces = tuple(_bytes(each) for each in told.tokens if isinstance(each, _Piece))
    return Tokenized(
        tokens=tuple(each.id if isinstance(each, _Piece) else each for each in told.tokens),
        context=max(0, told.max_model_len),
        text=task.prompt if task.wants_text and isinstance(task.prompt, str) else "",
        pieces=pieces if task.wants_pieces else (),
    )


def _bytes(piece: _Piece) -> bytes:
    if isinstance(piece.piece, str):
        return piece.piece.encode()
    return bytes(byte & 0xFF for byte in piece.piece)


def _require_each(indices: Sequence[int], count: int) -> None:
    if sorted(indices) != list(range(count)):
        raise EngineFailed(f"the server sent {len(indices)} results for {count} texts, or some of them twice")


def _prompt_tokens(usage: _Tokens | None) -> int:
    told = None if usage is None else usage.prompt_tokens or usage.total_tokens
    return told if told is not None and 0 <= told <= _LARGEST_COUNT else 0


def _whole(made: list[GenerationEvent], prompt_tokens: int, *, is_estimated: bool = False) -> list[GenerationEvent]:
    usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=0, is_estimated=is_estimated)
    finished = Finished(reasons=(FinishReason.STOP,), usage=usage)
    return [Started(prompt_tokens=prompt_tokens), *made, finished]


def _decode(body: bytes, shape: type[T]) -> T:
    try:
        found: Any = msgspec.json.decode(body, type=shape, strict=False)
    except (ValueError, RecursionError):
        raise EngineFailed(f"the server's answer is no {shape.__name__.strip('_').lower()}") from None
    result: T = found
    return result
