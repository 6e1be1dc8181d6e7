"""OpenAI's `POST /v1/chat/completions`: the request as a `ChatRequest`, the reply as one body or as SSE bytes.

Checks every bound a request must keep before a model is asked. Knows no status codes and opens no connection.
"""

from typing import Annotated, Any, Final, Literal, TypeAlias, assert_never

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from neuron_lib.errors import InvalidRequest
from neuron_lib.types import (
    ChatRequest,
    Finished,
    FinishReason,
    GenerationEvent,
    Principal,
    ReasoningDelta,
    SamplingParams,
    Started,
    TextDelta,
    ToolCall,
    Usage,
)
from neuron_lib.wire.bodies import check_free_form, decode_body, invalid_shape

__all__ = (
    "DONE",
    "KEEP_ALIVE",
    "ChatCollector",
    "ChatCompletionCall",
    "ChatStreamEncoder",
    "decode_chat_request",
)

DONE: Final = b"data: [DONE]\n\n"
"""The last event of every stream that ended well."""

KEEP_ALIVE: Final = b":\n\n"
"""A comment, for a stream that would otherwise be silent."""

_MAX_U64: Final = 2**64 - 1
"""The contract's integers are unsigned 64-bit ones, and that bound is beyond what `Meta` can say."""

# ------------------------------------------------------------------------------------------------------- the request

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


# --------------------------------------------------------------------------------------------------------- the reply
# UNSET leaves a key out, None writes null: before the end `finish_reason` is null and `usage` is not there.


class _Function(Struct):
    name: str
    arguments: str


class _CallDelta(Struct, kw_only=True):
    index: int
    id: str
    type: Literal["function"] = "function"
    function: _Function


class _Delta(Struct):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: tuple[_CallDelta, ...] | UnsetType = UNSET


class _ChunkChoice(Struct):
    index: int
    delta: _Delta
    finish_reason: FinishReason | None


class _CachedTokens(Struct):
    cached_tokens: int


class _ReasoningTokens(Struct):
    reasoning_tokens: int


class _Timing(Struct):
    prefill_ms: int
    decode_ms: int
    prefill_tokens: int


class _Usage(Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: _CachedTokens | UnsetType
    completion_tokens_details: _ReasoningTokens | UnsetType
    helexa_timing: _Timing


class _Chunk(Struct, kw_only=True):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: tuple[_ChunkChoice, ...]
    usage: _Usage | UnsetType = UNSET


class _Call(Struct, kw_only=True):
    id: str
    type: Literal["function"] = "function"
    function: _Function


class _Message(Struct):
    role: Literal["assistant"]
    content: str
    tool_calls: tuple[_Call, ...] | UnsetType


class _Choice(Struct):
    index: int
    message: _Message
    finish_reason: FinishReason


class _Completion(Struct, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: tuple[_Choice, ...]
    usage: _Usage


_encode: Final = msgspec.json.Encoder().encode


class ChatStreamEncoder:
    """Writes one reply as whole server-sent events, in the order of the contract (§1.8): `role`, any `event`s,
    `finish`, `usage`, then `DONE`. Lines end with LF alone: the gateway finds no event in a stream with CRLF.
    """

    __slots__ = ("_created", "_id", "_model")

    def __init__(self, *, id: str, created: int, model: str) -> None:  # noqa: A002 - the wire's word
        """`created` is a Unix time in seconds, `model` the name the client used."""
        self._id = id
        self._created = created
        self._model = model

    def role(self) -> bytes:
        """The opening event, sent before the first token is there."""
        return self._choice(_Delta(role="assistant"))

    def event(self, event: TextDelta | ReasoningDelta | ToolCall) -> bytes:
        """A piece of the reply."""
        match event:
            case TextDelta():
                return self._choice(_Delta(content=event.text))
            case ReasoningDelta():
                return self._choice(_Delta(reasoning_content=event.text))
            case ToolCall():
                function = _Function(event.name, event.arguments)
                return self._choice(_Delta(tool_calls=(_CallDelta(index=event.index, id=event.id, function=function),)))
            case _:
                assert_never(event)

    def finish(self, reason: FinishReason) -> bytes:
        """The end of the reply."""
        return self._choice(_Delta(), finish_reason=reason)

    def usage(self, usage: Usage) -> bytes:
        """The bill. Always sent, with only `DONE` behind it: the gateway looks for it at the end of the stream."""
        return self._chunk(choices=(), usage=_usage(usage))

    @staticmethod
    def error(envelope: bytes) -> bytes:
        """The event for a reply that was lost half-way; `envelope` is the JSON that an HTTP answer would have."""
        return _event(envelope)

    def _choice(self, delta: _Delta, *, finish_reason: FinishReason | None = None) -> bytes:
        return self._chunk(choices=(_ChunkChoice(0, delta, finish_reason),))

    def _chunk(self, *, choices: tuple[_ChunkChoice, ...], usage: _Usage | UnsetType = UNSET) -> bytes:
        chunk = _Chunk(id=self._id, created=self._created, model=self._model, choices=choices, usage=usage)
        return _event(_encode(chunk))


class ChatCollector:
    """Gathers one reply for a client that wants it whole: `add` every event, then take the `body`."""

    __slots__ = ("_calls", "_created", "_finished", "_id", "_model", "_texts")

    def __init__(self, *, id: str, created: int, model: str) -> None:  # noqa: A002 - the wire's word
        """`created` is a Unix time in seconds, `model` the name the client used."""
        self._id = id
        self._created = created
        self._model = model
        self._texts: list[str] = []
        self._calls: list[_Call] = []
        self._finished: Finished | None = None

    def add(self, event: GenerationEvent) -> None:
        """Take the next event. Reasoning is not part of the answer (wire contract §1.8)."""
        match event:
            case TextDelta():
                self._texts.append(event.text)
            case ToolCall():
                self._calls.append(_Call(id=event.id, function=_Function(event.name, event.arguments)))
            case Finished():
                self._finished = event
            case Started() | ReasoningDelta():
                pass
            case _:
                assert_never(event)

    def body(self) -> bytes:
        """The response as JSON; raises `ValueError` if no `Finished` came."""
        if self._finished is None:
            raise ValueError("the reply is not finished")
        message = _Message("assistant", "".join(self._texts), tuple(self._calls) or UNSET)
        return _encode(
            _Completion(
                id=self._id,
                created=self._created,
                model=self._model,
                choices=(_Choice(0, message, self._finished.reason),),
                usage=_usage(self._finished.usage),
            )
        )


def _usage(usage: Usage) -> _Usage:
    """Token counts as clients read them; a detail is there only when it says something (wire contract §1.8)."""
    return _Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details=_CachedTokens(usage.cached_tokens) if usage.cached_tokens else UNSET,
        completion_tokens_details=_ReasoningTokens(usage.reasoning_tokens) if usage.reasoning_tokens else UNSET,
        helexa_timing=_Timing(usage.prefill_ms, usage.decode_ms, usage.prompt_tokens - usage.cached_tokens),
    )


def _event(payload: bytes) -> bytes:
    return b"data: " + payload + b"\n\n"
