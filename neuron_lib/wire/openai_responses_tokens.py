"""OpenAI's `POST /v1/responses/input_tokens`: how many tokens the prompt of a response would have. Pure."""

from collections.abc import Mapping
from typing import Final, Literal

from msgspec import Struct

from neuron_lib.types import Detokenized, Principal, Tokenize, Tokenized
from neuron_lib.wire.dialect import Shapes
from neuron_lib.wire.openai_responses import ResponsesBody
from neuron_lib.wire.openai_responses import decode as decode_response
from neuron_lib.wire.token_requests import TokensRequest

__all__ = ("SHAPES", "InputTokens", "decode")


class InputTokens(Struct):
    """The body of the answer."""

    input_tokens: int
    object: Literal["response.input_tokens"] = "response.input_tokens"


SHAPES: Final = Shapes(
    summary="How many tokens the prompt of a response would have", request=ResponsesBody, reply=InputTokens
)


def decode(body: bytes, *, headers: Mapping[str, str], principal: Principal | None) -> TokensRequest:
    """The request in `body`, which is that of a response. Raises what is raised for a response."""
    chat = decode_response(body, headers=headers, principal=principal).task
    return TokensRequest(Tokenize(model_id=chat.model_id, prompt=chat, principal=principal), _count)


def _count(answer: Tokenized | Detokenized) -> InputTokens:
    assert isinstance(answer, Tokenized)  # the answer to its task
    return InputTokens(len(answer.tokens))
