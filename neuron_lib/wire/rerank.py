"""Reads the bodies of `POST /v1/rerank`, as clients of Jina, Cohere, vLLM and llama.cpp write them, and of Text
Embeddings Inference, which calls the documents `texts`. `rerank_reply` writes the replies.

Checks every bound that does not depend on the model. Knows no status codes and opens no connection.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal, NoReturn, TypeAlias

from msgspec import Meta, Struct

from neuron_lib.types import Principal, Rerank
from neuron_lib.wire.bodies import decode_body
from neuron_lib.wire.dialect import Shapes
from neuron_lib.wire.field_types import THE_ONLY_MODEL, ModelId
from neuron_lib.wire.json_bounds import refusal
from neuron_lib.wire.refused_parameters import Refused, decoder_with_refused, refuse_unsupported
from neuron_lib.wire.rerank_reply import BareRanked, Ranking, RankingCollector

__all__ = ("SHAPES", "RerankRequest", "decode")

_MOST_DOCUMENTS: Final = 2048

_WITHOUT_EFFECT: Final[Refused] = {
    "max_chunks_per_doc": (),
    "max_tokens_per_doc": (),
    "overlap_tokens": (),
    "rank_fields": (["text"],),
    "raw_scores": (False,),
    "stream": (False,),
    "truncate": (False,),
    "truncate_prompt_tokens": (),
    "truncation": (False,),
}
"""Parameters of Cohere, vLLM, Text Embeddings Inference and others that would need an effect, and the values that ask
for what happens anyway.
"""
_LENGTHS: Final = ("max_tokens_per_doc", "truncate", "truncate_prompt_tokens", "truncation")
_INSTEAD: Final = dict.fromkeys(_LENGTHS, "; a document that is too long is refused")


class _Document(Struct):
    text: str


_Texts: TypeAlias = list[str | _Document]


class _Body(Struct, frozen=True, kw_only=True):
    """`texts` are documents without a `model`, because a server of Text Embeddings Inference has one model."""

    model: ModelId | None = None
    query: Annotated[str, Meta(min_length=1)]
    documents: _Texts | None = None
    texts: _Texts | None = None
    top_n: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    return_documents: bool | None = None
    return_text: bool | None = None


SHAPES: Final = Shapes(
    summary="Say of each document how well it answers a query", request=_Body, reply=Ranking | list[BareRanked]
)

_decoder: Final = decoder_with_refused(_Body, _WITHOUT_EFFECT)


class RerankRequest(Struct, frozen=True, kw_only=True):
    """A `neuron_lib.wire.dialect.DecodedRequest`: the task, and how its scores are to be written.

    `top_n` is how many of the best documents are wanted, None for all. `is_bare` asks for the shape of Text Embeddings
    Inference.
    """

    task: Rerank
    top_n: int | None
    shows_documents: bool
    is_bare: bool
    stream: Literal[False] = False

    def encoder(self, *, unique: str, created: int) -> NoReturn:  # noqa: ARG002 - see `DecodedRequest`
        """There is no stream of scores. Always raises `ValueError`."""
        raise ValueError("scores are not streamed")

    def collector(self, *, unique: str, created: int) -> RankingCollector:  # noqa: ARG002 - see `DecodedRequest`
        """What writes the reply. It has the model's id as the client wrote it."""
        return RankingCollector(
            id=f"rerank-{unique}",
            model=self.task.model_id,
            top_n=self.top_n,
            documents=self.task.documents if self.shows_documents else None,
            is_bare=self.is_bare,
        )


def decode(body: bytes, *, headers: Mapping[str, str], principal: Principal | None) -> RerankRequest:
    """The request in `body`. `null` means the same as an absent field, and unknown fields are ignored.

    Raises what `decode_body` raises, also for values that are out of bounds.
    """
    call = decode_body(_decoder, body, content_type=headers.get("content-type"))
    refuse_unsupported(call, _WITHOUT_EFFECT, instead=_INSTEAD)
    is_bare = call.documents is None and call.texts is not None
    name, documents = ("texts", call.texts) if is_bare else ("documents", call.documents)
    if documents is None:
        raise refusal("documents", "this field is required")
    if call.texts is not None and not is_bare:
        raise refusal("texts", "it contradicts `documents`")
    if call.model is None and not is_bare:
        raise refusal("model", "this field is required")
    if not 1 <= len(documents) <= _MOST_DOCUMENTS:
        raise refusal(name, f"Expected `array` of length 1 to {_MOST_DOCUMENTS}")
    texts = tuple(document if isinstance(document, str) else document.text for document in documents)
    return RerankRequest(
        task=Rerank(model_id=call.model or THE_ONLY_MODEL, query=call.query, documents=texts, principal=principal),
        top_n=call.top_n,
        shows_documents=bool(call.return_documents or call.return_text),
        is_bare=is_bare,
    )
