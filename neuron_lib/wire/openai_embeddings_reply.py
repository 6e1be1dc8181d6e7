"""Writes the replies of OpenAI's `POST /v1/embeddings`.

Pure. Knows no status codes and opens no connection.
"""

import struct
from base64 import b64encode
from collections.abc import Sequence
from typing import Final

import msgspec

from neuron_lib.types import Embedding, Finished, GenerationEvent

__all__ = ("EmbeddingsCollector",)


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
        self._items: Final[dict[int, bytes]] = {}
        self._finished: Finished | None = None

    def add(self, event: GenerationEvent) -> None:
        if isinstance(event, Embedding):
            self._items[event.index] = self._item(event)
        elif isinstance(event, Finished):
            self._finished = event

    def _item(self, event: Embedding) -> bytes:
        vector = b'"' + _base64(event.vector) + b'"' if self._is_base64 else msgspec.json.encode(event.vector)
        return b'{"object":"embedding","index":%d,"embedding":%b}' % (event.index, vector)

    def body(self) -> bytes:
        if self._finished is None:
            raise ValueError("the reply has not ended")
        tokens = self._finished.usage.prompt_tokens
        return b'{"object":"list","data":[%b],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (
            b",".join(self._items[index] for index in sorted(self._items)),
            msgspec.json.encode(self._model),
            tokens,
            tokens,
        )


def _base64(vector: Sequence[float]) -> bytes:
    return b64encode(struct.pack(f"<{len(vector)}f", *vector))
