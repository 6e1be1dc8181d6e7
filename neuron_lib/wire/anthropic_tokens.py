"""Anthropic's `POST /v1/messages/count_tokens`: how many tokens the prompt of a message would have. Pure."""

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct

from neuron_lib.types import Finished, GenerationEvent, Principal, Tokenize
from neuron_lib.wire.anthropic_errors import AnthropicError
from neuron_lib.wire.anthropic_messages import ELSEWHERE, PromptBody, chat_of
from neuron_lib.wire.bodies import decode_body
from neuron_lib.wire.dialect import Shapes, StreamEncoder
from neuron_lib.wire.refused_parameters import decoder_with_refused

__all__ = ("SHAPES", "CountCollector", "CountRequest", "decode")

_decoder: Final = decoder_with_refused(PromptBody, also=ELSEWHERE)


class _Count(Struct):
    input_tokens: int


SHAPES: Final = Shapes(
    summary="How many tokens the prompt of a message would have",
    request=PromptBody,
    reply=_Count,
    error=AnthropicError,
)


class CountRequest(Struct, frozen=True, kw_only=True):
    """A `neuron_lib.wire.dialect.DecodedRequest`. Its reply has no stream."""

    task: Tokenize
    stream: bool = False

    def encoder(self, *, unique: str, created: int) -> StreamEncoder:
        """Raises `NotImplementedError`: a number has no parts."""
        raise NotImplementedError

    def collector(self, *, unique: str, created: int) -> "CountCollector":  # noqa: ARG002 - a number needs neither
        """What writes the number."""
        return CountCollector()


def decode(body: bytes, *, headers: Mapping[str, str], principal: Principal | None) -> CountRequest:
    """The request in `body`: that of a message without its `max_tokens`.

    Raises what `decode_body` raises, also for values that are out of bounds.
    """
    call = decode_body(_decoder, body, content_type=headers.get("content-type"))
    task = Tokenize(
        model_id=call.model, prompt=chat_of(call, max_tokens=None, principal=principal), principal=principal
    )
    return CountRequest(task=task)


class CountCollector:
    """Waits for the number of tokens; see `neuron_lib.wire.dialect.Collector`."""

    __slots__ = ("_finished",)

    def __init__(self) -> None:
        self._finished: Finished | None = None

    def add(self, event: GenerationEvent) -> None:
        """Take the next event."""
        if isinstance(event, Finished):
            self._finished = event

    def body(self) -> bytes:
        """The body as JSON. Raises `ValueError` before `Finished` has been added."""
        if self._finished is None:
            raise ValueError("the reply is not finished")
        return msgspec.json.encode(_Count(self._finished.usage.prompt_tokens))
