"""Requests about the tokens of a prompt, as every API that has some answers them: in one piece. Pure."""

from collections.abc import Callable
from typing import Final, Literal, NoReturn

import msgspec
from msgspec import Struct

from neuron_lib.types import Detokenize, Detokenized, GenerationEvent, Tokenize, Tokenized
from neuron_lib.wire.line_breaks import escape_line_breaks

__all__ = ("TokensCollector", "TokensRequest")

_encode: Final = msgspec.json.Encoder().encode


class TokensRequest(Struct, frozen=True):
    """A `neuron_lib.wire.dialect.DecodedRequest`. `write` makes the body of the answer from the event that has it."""

    task: Tokenize | Detokenize
    write: Callable[[Tokenized | Detokenized], Struct]
    stream: Literal[False] = False

    def encoder(self, *, unique: str, created: int) -> NoReturn:  # noqa: ARG002 - see `DecodedRequest`
        """There is no stream of tokens. Always raises `ValueError`."""
        raise ValueError("tokens are not streamed")

    def collector(self, *, unique: str, created: int) -> "TokensCollector":  # noqa: ARG002 - see `DecodedRequest`
        """What writes the answer."""
        return TokensCollector(self.write)


class TokensCollector:
    """Waits for the answer; see `neuron_lib.wire.dialect.Collector`."""

    __slots__ = ("_answer", "_write")

    def __init__(self, write: Callable[[Tokenized | Detokenized], Struct]) -> None:
        """`write` makes the body."""
        self._write = write
        self._answer: Tokenized | Detokenized | None = None

    def add(self, event: GenerationEvent) -> None:
        """Take the next event."""
        if isinstance(event, Tokenized | Detokenized):
            self._answer = event

    def body(self) -> bytes:
        """The body as JSON. Raises `ValueError` before the answer has been added."""
        if self._answer is None:
            raise ValueError("there is no answer yet")
        return escape_line_breaks(_encode(self._write(self._answer)))
