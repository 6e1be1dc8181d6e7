"""The body of OpenAI's `POST /v1/chat/completions`, as a `ChatRequest`. The reply is `openai_chat_reply`'s.

Checks every bound a request must keep before a model is asked. Knows no status codes and opens no connection.
"""

from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta, Struct

from neuron_lib.errors import InvalidRequest
from neuron_lib.types import ChatRequest, Principal, SamplingParams
from neuron_lib.wire.bodies import check_free_form, decode_body, invalid_shape

__all__ = ("ChatCompletionCall", "decode_chat_request")

_MAX_U64: Final = 2**64 - 1
"""The contract's integers are unsigned 64-bit ones, and that bound is beyond what `Meta` can say."""

_Count: TypeAlias = Annotated[int, Meta(ge=1)]
_Penalty: TypeAlias = Annotated[float, Meta(ge=-2, le=2)]
_Stop: TypeAlias = Annotated[str, Meta(min_length=1, max_length=1024)]


class _Body(Struct):
    model: Annotated[str, Meta(min_length=1, max_length=1024)]
    messages: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=10_000)]
    temperature: Annotated[float, Meta(le=100)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=0)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=100)] | None = None
    repeat_last_n: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    max_completion_tokens: _Count | None = None
    max_tokens: _Count | None = None
    stop: _Stop | Annotated[list[_Stop], Meta(max_length=16)] | None = None
    n: Annotated[int, Meta(ge=1, le=1)] | None = None
    stream: bool | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=1024)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class _TextPart(Struct, tag_field="type", tag="text"):
    text: str


class _ImageUrl(Struct):
    url: str


class _ImagePart(Struct, tag_field="type", tag="image_url"):
    image_url: _ImageUrl


class _MessageShape(Struct):
    """What must hold for every message. Its other keys belong to the template, so the message itself stays a dict."""

    role: Annotated[str, Meta(min_length=1)]
    content: str | list[_TextPart | _ImagePart] | None = None


_decoder: Final = msgspec.json.Decoder(_Body)


class ChatCompletionCall(Struct, frozen=True, kw_only=True):
    """A request and how its reply is wanted: as a stream or in one piece."""

    request: ChatRequest
    stream: bool

    @property
    def model(self) -> str:
        """The model as the client named it, which is how the reply must name it."""
        return self.request.model_id


def decode_chat_request(
    body: bytes, *, content_type: str | None, include_thinking: bool, principal: Principal | None
) -> ChatCompletionCall:
    """Read a request's `body` (wire contract §1.8); null means absent everywhere, unknown fields are ignored.

    `include_thinking` is the client's flag, and the default of the template's `enable_thinking`. Raises what
    `decode_body` raises, also for values that are out of bounds.
    """
    call = decode_body(_decoder, body, content_type=content_type)
    for name in ("seed", "max_tokens", "max_completion_tokens"):
        if (getattr(call, name) or 0) > _MAX_U64:
            raise InvalidRequest(f"{name}: Expected `int` <= {_MAX_U64}", param=name)
    tools = call.tools or []
    template_kwargs = call.chat_template_kwargs or {}
    check_free_form(call.messages, param="messages")
    check_free_form(tools, param="tools")
    check_free_form(template_kwargs, param="chat_template_kwargs")
    max_tokens = call.max_tokens if call.max_completion_tokens is None else call.max_completion_tokens
    request = ChatRequest(
        model_id=call.model,
        messages=_messages(call.messages),
        tools=tuple(tools),
        template_kwargs={"enable_thinking": include_thinking} | template_kwargs,
        sampling=SamplingParams(
            temperature=call.temperature,
            top_p=call.top_p,
            top_k=call.top_k,
            min_p=call.min_p,
            seed=call.seed,
            repetition_penalty=call.repetition_penalty,
            repeat_last_n=call.repeat_last_n,
            frequency_penalty=call.frequency_penalty,
            presence_penalty=call.presence_penalty,
        ),
        max_tokens=max_tokens,
        stop=(call.stop,) if isinstance(call.stop, str) else tuple(call.stop or ()),
        include_thinking=include_thinking,
        principal=principal,
    )
    return ChatCompletionCall(request=request, stream=bool(call.stream))


def _messages(messages: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """The messages, checked, with lists of text parts as one text: most templates know no parts."""
    try:
        shapes = msgspec.convert(messages, list[_MessageShape])
    except msgspec.ValidationError as exc:
        raise invalid_shape(exc, within="messages") from None
    return tuple(
        message if not isinstance(shape.content, list) else message | {"content": _content(message, shape.content, i)}
        for i, (message, shape) in enumerate(zip(messages, shapes, strict=True))
    )


def _content(message: dict[str, Any], parts: list[_TextPart | _ImagePart], index: int) -> Any:
    texts = []
    for i, part in enumerate(parts):
        match part:
            case _TextPart():
                texts.append(part.text)
            case _ImagePart() if part.image_url.url[:5].lower() != "data:":
                place = f"messages[{index}].content[{i}].image_url.url"
                raise InvalidRequest(f"{place}: only data: URLs are accepted, nothing is fetched", param=place)
    return "\n".join(texts) if len(texts) == len(parts) else message["content"]
