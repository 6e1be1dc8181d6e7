"""Reads the bodies of OpenAI's `POST /v1/embeddings`. `openai_embeddings_reply` writes the replies.

Checks every bound that does not depend on the model. Knows no status codes and opens no connection.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal, NoReturn

from msgspec import Meta, Struct

from neuron_lib.types import Embed, Principal
from neuron_lib.wire.bodies import decode_body
from neuron_lib.wire.dialect import Shapes
from neuron_lib.wire.field_types import ModelId, TokenId
from neuron_lib.wire.json_bounds import refusal
from neuron_lib.wire.keep_alive import KeepAlive, read_keep_alive
from neuron_lib.wire.openai_embeddings_reply import EmbeddingList, EmbeddingsCollector
from neuron_lib.wire.refused_parameters import Refused, decoder_with_refused, refuse_unsupported

__all__ = ("SHAPES", "EmbeddingsRequest", "decode")

_MOST_INPUTS: Final = 2048
"""OpenAI's bound."""

_WITHOUT_EFFECT: Final[Refused] = {
    "add_special_tokens": (True,),
    "embd_normalize": (2,),
    "embedding_types": (["float"],),
    "input_type": (),
    "late_chunking": (False,),
    "messages": (),
    "normalize": (True,),
    "output_dimension": (),
    "output_dtype": ("float",),
    "prompt_name": (),
    "stream": (False,),
    "task": (),
    "truncate": (False, "NONE"),
    "truncate_prompt_tokens": (),
}
"""Parameters of vLLM, llama.cpp, Cohere, Jina, Voyage and others that would need an effect, and the values that ask for
what happens anyway.
"""
_PREFIX: Final = "; write into each text what the model wants before it"
_INSTEAD: Final = {
    "embedding_types": "; use `encoding_format`",
    "input_type": _PREFIX,
    "output_dimension": "; use `dimensions`",
    "prompt_name": _PREFIX,
    "task": _PREFIX,
    "truncate": "; a text that is too long is refused",
    "truncate_prompt_tokens": "; a text that is too long is refused",
}


class _Body(Struct, frozen=True, kw_only=True):
    """Every field that has an effect, and `user`, which OpenAI takes for its statistics."""

    model: ModelId
    input: str | list[str | TokenId | list[TokenId]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    user: str | None = None
    keep_alive: KeepAlive | None = None


SHAPES: Final = Shapes(summary="Make a vector of each text", request=_Body, reply=EmbeddingList)

_decoder: Final = decoder_with_refused(_Body, _WITHOUT_EFFECT)


class EmbeddingsRequest(Struct, frozen=True, kw_only=True):
    """A `neuron_lib.wire.dialect.DecodedRequest`: the task, and how its vectors are to be written."""

    task: Embed
    is_base64: bool
    stream: Literal[False] = False

    def encoder(self, *, unique: str, created: int) -> NoReturn:  # noqa: ARG002 - see `DecodedRequest`
        """There is no stream of vectors. Always raises `ValueError`."""
        raise ValueError("vectors are not streamed")

    def collector(self, *, unique: str, created: int) -> EmbeddingsCollector:  # noqa: ARG002 - see `DecodedRequest`
        """What writes the reply. It has the model's id as the client wrote it, and neither an id nor a time."""
        return EmbeddingsCollector(model=self.task.model_id, is_base64=self.is_base64)


def decode(body: bytes, *, headers: Mapping[str, str], principal: Principal | None) -> EmbeddingsRequest:
    """The request in `body`. `null` means the same as an absent field, and unknown fields are ignored.

    Raises what `decode_body` raises, also for values that are out of bounds.
    """
    call = decode_body(_decoder, body, content_type=headers.get("content-type"))
    refuse_unsupported(call, _WITHOUT_EFFECT, instead=_INSTEAD)
    task = Embed(
        model_id=call.model,
        inputs=_inputs(call.input),
        dimensions=call.dimensions,
        principal=principal,
        keep_alive_s=read_keep_alive(call.keep_alive),
    )
    return EmbeddingsRequest(task=task, is_base64=call.encoding_format == "base64")


def _inputs(given: str | list[str | int | list[int]]) -> tuple[str | tuple[int, ...], ...]:
    """The texts to make vectors of: one text, the tokens of one text, or a list of either kind."""
    if isinstance(given, str):
        return (_text(given, "input"),)
    if not given:
        raise refusal("input", f"Expected `array` of length 1 to {_MOST_INPUTS}")
    kinds = {type(item) for item in given}
    if len(kinds) > 1:
        raise refusal("input", "texts, tokens, or lists of tokens are expected, and not several of these at once")
    if kinds == {int}:
        return (tuple(item for item in given if isinstance(item, int)),)
    if len(given) > _MOST_INPUTS:
        raise refusal("input", f"Expected `array` of length 1 to {_MOST_INPUTS}")
    return tuple(_item(item, f"input[{index}]") for index, item in enumerate(given))


def _item(item: str | int | list[int], place: str) -> str | tuple[int, ...]:
    assert not isinstance(item, int)  # tokens are one text
    return _text(item, place) if isinstance(item, str) else _tokens(item, place)


def _text(text: str, place: str) -> str:
    if not text:
        raise refusal(place, "this text is empty")
    return text


def _tokens(tokens: list[int], place: str) -> tuple[int, ...]:
    if not tokens:
        raise refusal(place, "there is no token in this list")
    return tuple(tokens)
