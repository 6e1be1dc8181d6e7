"""Writes the replies of OpenAI's `POST /v1/embeddings`.

Pure. Knows no status codes and opens no connection.
"""

import struct
from base64 import b64encode
from collections.abc import Sequence
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Struct

from neuron_lib.types import Embedding, Finished, GenerationEvent
from neuron_lib.wire.bodies import read_as
from neuron_lib.wire.line_breaks import escape_line_breaks

__all__ = ("EmbeddingList", "EmbeddingsCollector")


class _Item(Struct):
    index: int
    embedding: tuple[float, ...] | str
    object: Literal["embedding"] = "embedding"


class _Usage(Struct):
    prompt_tokens: int
    total_tokens: int


_WrittenItem: TypeAlias = Annotated[msgspec.Raw, read_as(_Item)]


class EmbeddingList(Struct):
    """The body of a reply. The vectors are in the order of the inputs."""

    data: list[_WrittenItem]
    model: Annotated[msgspec.Raw, read_as(str)]
    usage: _Usage
    object: Literal["list"] = "list"


class EmbeddingsCollector:
    """A `neuron_lib.wire.dialect.Collector`.

    A vector is written when it comes. So the longest piece of work is one vector, and what waits for the others takes
    little memory.
    """

    def __init__(self, *, model: str, is_base64: bool) -> None:
        """`model` is the id as the client wrote it. With `is_base64` each vector is the base64 of its numbers as
        float32, little-endian.
        """
        self._model: Final = model
        self._is_base64: Final = is_base64
        self._items: Final[dict[int, msgspec.Raw]] = {}
        self._finished: Finished | None = None

    def add(self, event: GenerationEvent) -> None:
        if isinstance(event, Embedding):
            vector = _base64(event.vector) if self._is_base64 else event.vector
            self._items[event.index] = msgspec.Raw(msgspec.json.encode(_Item(event.index, vector)))
        elif isinstance(event, Finished):
            self._finished = event

    def body(self) -> bytes:
        if self._finished is None:
            raise ValueError("the reply has not ended")
        tokens = self._finished.usage.prompt_tokens
        items = [self._items[index] for index in sorted(self._items)]
        model = msgspec.Raw(escape_line_breaks(msgspec.json.encode(self._model)))  # no other text can need it
        return msgspec.json.encode(EmbeddingList(items, model, _Usage(tokens, tokens)))


def _base64(vector: Sequence[float]) -> str:
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
