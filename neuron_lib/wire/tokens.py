"""Reads and answers `POST /tokenize`, `/detokenize` and `/apply-template`, as llama.cpp's server and vLLM have them.

The two servers have other names for the same fields, and each answer has the fields of both. A body that names no model
means the only one that is resident.
"""

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from neuron_lib.types import Chat, Detokenize, Detokenized, Principal, Tokenize, Tokenized
from neuron_lib.wire.bodies import NOTHING, decode_body, is_given, read_as
from neuron_lib.wire.dialect import Shapes
from neuron_lib.wire.field_types import THE_ONLY_MODEL, ModelIdOrNone, TokenId
from neuron_lib.wire.json_bounds import refusal
from neuron_lib.wire.openai_chat import ChatCompletionBody, read_chat
from neuron_lib.wire.refused_parameters import decoder_with_refused
from neuron_lib.wire.token_requests import TokensRequest

__all__ = (
    "APPLY_TEMPLATE_SHAPES",
    "DETOKENIZE_SHAPES",
    "TOKENIZE_SHAPES",
    "ChatBody",
    "DetokenizeBody",
    "PromptAnswer",
    "TextAnswer",
    "TokenizeBody",
    "TokensAnswer",
    "decode_apply_template",
    "decode_detokenize",
    "decode_tokenize",
)


# ---------------------------------------------------------------------------------------------------------- the bodies


class TokenizeBody(Struct, frozen=True, kw_only=True):
    """What is to be read: `content` (llama.cpp), `prompt` or `messages` (vLLM). One of them must be there.

    `add_special` and `add_special_tokens` mean the same. If neither is there, llama.cpp adds no special tokens around a
    `content`, and vLLM adds them around a `prompt`. `messages` come with all fields of a chat completion that change
    the prompt.
    """

    model: ModelIdOrNone | None = None
    content: str | None = None
    prompt: str | None = None
    messages: Annotated[msgspec.Raw, read_as(list[dict[str, object]])] = NOTHING
    add_special: bool | None = None
    add_special_tokens: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None
    return_token_strs: bool | None = None


class ChatBody(ChatCompletionBody, frozen=True, kw_only=True):
    """A chat that is read and not answered."""

    model: ModelIdOrNone = THE_ONLY_MODEL


class DetokenizeBody(Struct, frozen=True, kw_only=True):
    """The tokens to be spelled."""

    model: ModelIdOrNone | None = None
    tokens: list[TokenId]


class _Piece(Struct):
    """A token with its text, or with its bytes if they are not a text by themselves."""

    id: int
    piece: str | tuple[int, ...]


class TokensAnswer(Struct):
    """`tokens` are ids, or objects if the request wants pieces. `max_model_len` is the model's context in tokens."""

    tokens: tuple[int | _Piece, ...]
    count: int
    max_model_len: int | UnsetType = UNSET
    token_strs: tuple[str, ...] | UnsetType = UNSET


class TextAnswer(Struct):
    """The text of tokens, under the names of both servers."""

    content: str
    prompt: str


class PromptAnswer(Struct):
    """The prompt that the chat template writes."""

    prompt: str


_tokenize_decoder: Final = msgspec.json.Decoder(TokenizeBody)
_chat_decoder: Final = decoder_with_refused(ChatBody)
_detokenize_decoder: Final = msgspec.json.Decoder(DetokenizeBody)


# -------------------------------------------------------------------------------------------------------- the requests


def decode_tokenize(body: bytes, *, headers: Mapping[str, str], principal: Principal | None) -> TokensRequest:
    """The request of `/tokenize`. Raises what `decode_body` raises, also for values that are out of bounds."""
    call = decode_body(_tokenize_decoder, body, content_type=headers.get("content-type"))
    names = [name for name in ("content", "prompt") if getattr(call, name) is not None]
    names += ["messages"] if is_given(call.messages) else []
    if not names:
        raise refusal("prompt", "one of content, prompt and messages is required")
    if len(names) > 1:
        raise refusal(names[-1], f"of {' and '.join(names)} only one can be read")
    if names == ["messages"] and call.add_special:
        raise refusal("add_special", "this is not supported; the template says what a chat begins with")
    task = Tokenize(
        model_id=call.model or THE_ONLY_MODEL,
        prompt=_chat(body, headers, principal) if names == ["messages"] else call.content or call.prompt or "",
        add_special=_adds_special(call),
        parse_special=call.parse_special is not False,
        wants_pieces=bool(call.with_pieces or call.return_token_strs),
        principal=principal,
    )

    def write(answer: Tokenized | Detokenized) -> TokensAnswer:
        assert isinstance(answer, Tokenized)  # the answer to its task
        return TokensAnswer(
            tokens=tuple(map(_piece, answer.tokens, answer.pieces)) if call.with_pieces else answer.tokens,
            count=len(answer.tokens),
            max_model_len=answer.context or UNSET,
            token_strs=tuple(piece.decode(errors="replace") for piece in answer.pieces)
            if call.return_token_strs
            else UNSET,
        )

    return TokensRequest(task, write)


def decode_detokenize(body: bytes, *, headers: Mapping[str, str], principal: Principal | None) -> TokensRequest:
    """The request of `/detokenize`. Raises what `decode_body` raises, also for values that are out of bounds."""
    call = decode_body(_detokenize_decoder, body, content_type=headers.get("content-type"))
    task = Detokenize(model_id=call.model or THE_ONLY_MODEL, tokens=tuple(call.tokens), principal=principal)

    def write(answer: Tokenized | Detokenized) -> TextAnswer:
        assert isinstance(answer, Detokenized)  # the answer to its task
        return TextAnswer(answer.text, answer.text)

    return TokensRequest(task, write)


def decode_apply_template(body: bytes, *, headers: Mapping[str, str], principal: Principal | None) -> TokensRequest:
    """The request of `/apply-template`, which has the fields of a chat completion. Raises what its `decode` raises."""
    chat = _chat(body, headers, principal)
    task = Tokenize(model_id=chat.model_id, prompt=chat, wants_text=True, principal=principal)

    def write(answer: Tokenized | Detokenized) -> PromptAnswer:
        assert isinstance(answer, Tokenized)  # the answer to its task
        return PromptAnswer(answer.text)

    return TokensRequest(task, write)


def _chat(body: bytes, headers: Mapping[str, str], principal: Principal | None) -> Chat:
    call = decode_body(_chat_decoder, body, content_type=headers.get("content-type"))
    return read_chat(call, headers=headers, principal=principal)


def _adds_special(call: TokenizeBody) -> bool:
    """Whether the tokenizer adds tokens around a text. Of a chat, `read_chat` checks the field."""
    if call.add_special is None or call.add_special_tokens in {None, call.add_special}:
        asked = call.add_special_tokens if call.add_special is None else call.add_special
        return call.content is None if asked is None else asked
    raise refusal("add_special_tokens", "it contradicts `add_special`")


def _piece(token: int, piece: bytes) -> _Piece:
    try:
        return _Piece(token, piece.decode())
    except UnicodeDecodeError:
        return _Piece(token, tuple(piece))


# --------------------------------------------------------------------------------------------------------- their types


TOKENIZE_SHAPES: Final = Shapes(summary="The tokens of a text or of a chat", request=TokenizeBody, reply=TokensAnswer)
DETOKENIZE_SHAPES: Final = Shapes(summary="The text of tokens", request=DetokenizeBody, reply=TextAnswer)
APPLY_TEMPLATE_SHAPES: Final = Shapes(
    summary="The prompt that the chat template writes", request=ChatBody, reply=PromptAnswer
)
