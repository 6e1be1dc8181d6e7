"""Writes the replies of `POST /v1/rerank`: the best documents first.

Pure. Knows no status codes and opens no connection.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from neuron_lib.types import Finished, GenerationEvent, Relevance
from neuron_lib.wire.line_breaks import escape_line_breaks

__all__ = ("BareRanked", "Ranking", "RankingCollector")


class _Document(Struct):
    text: str


class _Ranked(Struct):
    index: int
    relevance_score: float
    document: _Document | UnsetType


class BareRanked(Struct):
    """A document and its score in the shape of Text Embeddings Inference."""

    index: int
    score: float
    text: str | UnsetType


class _Usage(Struct):
    prompt_tokens: int
    total_tokens: int


class Ranking(Struct):
    """The body of a reply. The best document comes first."""

    id: str
    model: str
    results: list[_Ranked]
    usage: _Usage
    object: Literal["list"] = "list"


@dataclass(slots=True, kw_only=True)
class RankingCollector:
    """A `neuron_lib.wire.dialect.Collector`.

    `model` is the id as the client wrote it. `top_n` is how many documents are wanted, None for all of them.
    `documents` are repeated in the results, unless they are None. With `is_bare` the body is the list of results alone,
    in the shape of Text Embeddings Inference.
    """

    id: str
    model: str
    top_n: int | None
    documents: Sequence[str] | None
    is_bare: bool
    _scores: dict[int, float] = field(default_factory=dict, init=False)
    _finished: Finished | None = field(default=None, init=False)

    def add(self, event: GenerationEvent) -> None:
        if isinstance(event, Relevance):
            self._scores[event.index] = event.score
        elif isinstance(event, Finished):
            self._finished = event

    def body(self) -> bytes:
        if self._finished is None:
            raise ValueError("the reply has not ended")
        order = sorted(self._scores, key=lambda index: (-self._scores[index], index))[: self.top_n]
        if self.is_bare:
            bare = [BareRanked(index, self._scores[index], self._text(index)) for index in order]
            return escape_line_breaks(msgspec.json.encode(bare))
        tokens = self._finished.usage.prompt_tokens
        ranking = Ranking(
            id=self.id,
            model=self.model,
            results=[_Ranked(index, self._scores[index], self._document(index)) for index in order],
            usage=_Usage(tokens, tokens),
        )
        return escape_line_breaks(msgspec.json.encode(ranking))

    def _text(self, index: int) -> str | UnsetType:
        return UNSET if self.documents is None else self.documents[index]

    def _document(self, index: int) -> _Document | UnsetType:
        return UNSET if self.documents is None else _Document(self.documents[index])
