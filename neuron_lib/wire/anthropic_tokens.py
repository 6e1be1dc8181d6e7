"""Anthropic's `POST /v1/messages/count_tokens`: how many tokens the prompt of a message would have. Pure."""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from neuron_lib.types import Detokenized, Principal, Tokenize, Tokenized
from neuron_lib.wire.anthropic_errors import AnthropicError
from neuron_lib.wire.anthropic_messages import ELSEWHERE, PromptBody, chat_of
from neuron_lib.wire.bodies import decode_body
from neuron_lib.wire.dialect import Shapes
from neuron_lib.wire.refused_parameters import decoder_with_refused
from neuron_lib.wire.token_requests import TokensRequest

__all__ = ("SHAPES", "decode")

_decoder: Final = decoder_with_refused(PromptBody, also=ELSEWHERE)


class _Count(Struct):
    input_tokens: int


SHAPES: Final = Shapes(
    summary="How many tokens the prompt of a message would have",
    request=PromptBody,
    reply=_Count,
    error=AnthropicError,
)


def decode(body: bytes, *, headers: Mapping[str, str], principal: Principal | None) -> TokensRequest:
    """The request in `body`: that of a message without its `max_tokens`.

    Raises what `decode_body` raises, also for values that are out of bounds.
    """
    call = decode_body(_decoder, body, content_type=headers.get("content-type"))
    chat = chat_of(call, max_tokens=None, principal=principal)
    return TokensRequest(Tokenize(model_id=call.model, prompt=chat, principal=principal), _count)


def _count(answer: Tokenized | Detokenized) -> _Count:
    assert isinstance(answer, Tokenized)  # the answer to its task
    return _Count(len(answer.tokens))
