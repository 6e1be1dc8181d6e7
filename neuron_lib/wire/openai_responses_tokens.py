"""OpenAI's `POST /v1/responses/input_tokens`: how many tokens the prompt of a response would have. Pure."""

from collections.abc import Mapping
from typing import Final, Literal

import msgspec
from msgspec import Struct

from neuron_lib.types import Finished, GenerationEvent, Principal, Tokenize
from neuron_lib.wire.dialect import Shapes, StreamEncoder
from neuron_lib.wire.openai_responses import ResponsesBody
from neuron_lib.wire.openai_responses import decode as decode_response

__all__ = ("SHAPES", "InputTokens", "InputTokensCollector", "InputTokensRequest", "decode")


class InputTokens(Struct):
    """The body of the answer."""

    input_tokens: int
    object: Literal["response.input_tokens"] = "response.input_tokens"


SHAPES: Final = Shapes(
    summary="How many tokens the prompt of a response would have", request=ResponsesBody, reply=InputTokens
)


class InputTokensRequest(Struct, frozen=True, kw_only=True):
    """A `neuron_lib.wire.dialect.DecodedRequest`. Its reply has no stream."""

    task: Tokenize
    stream: bool = False

    def encoder(self, *, unique: str, created: int) -> StreamEncoder:
        """Raises `NotImplementedError`: a number has no parts."""
        raise NotImplementedError

    def collector(self, *, unique: str, created: int) -> "InputTokensCollector":  # noqa: ARG002 - a number needs neither
        """What writes the number."""
        return InputTokensCollector()


def decode(body: bytes, *, headers: Mapping[str, str], principal: Principal | None) -> InputTokensRequest:
    """The request in `body`, which is that of a response. Raises what is raised for a response."""
    chat = decode_response(body, headers=headers, principal=principal).task
    return InputTokensRequest(task=Tokenize(model_id=chat.model_id, prompt=chat, principal=principal))


class InputTokensCollector:
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
        return msgspec.json.encode(InputTokens(self._finished.usage.prompt_tokens))
