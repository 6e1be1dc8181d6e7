"""The body of OpenAI's `POST /v1/chat/completions`, as a `ChatRequest`. The reply is `openai_chat_reply`'s.

Checks every bound a request must keep before a model is asked. Knows no status codes and opens no connection.
"""

import re
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta, Struct

from neuron_lib.config import (
    Chance,
    DryAllowedLength,
    DryBase,
    DryBreaker,
    DryMultiplier,
    LastTokens,
    Penalty,
    RepetitionPenalty,
    Share,
    TopK,
    TopNSigma,
)
from neuron_lib.errors import InvalidRequest
from neuron_lib.types import ChatRequest, Grammar, Principal, SamplingParams
from neuron_lib.wire.bodies import check_free_form, decode_body, invalid_shape

__all__ = ("ChatCompletionCall", "decode_chat_request")

_MAX_U64: Final = 2**64 - 1
"""The contract's integers are unsigned 64-bit ones, and that bound is beyond what `Meta` can say."""

_MAX_GRAMMAR_BYTES: Final = 256 << 10

_TOKEN: Final = re.compile(r"0|[1-9][0-9]{0,9}")
_MAX_TOKEN: Final = 2**31 - 1

_Count: TypeAlias = Annotated[int, Meta(ge=1)]
_Stop: TypeAlias = Annotated[str, Meta(min_length=1, max_length=1024)]


class _Text(Struct, tag_field="type", tag="text"):
    pass


class _JsonObject(Struct, tag_field="type", tag="json_object"):
    pass


class _Schema(Struct):
    schema: dict[str, Any] | bool


class _JsonSchema(Struct, tag_field="type", tag="json_schema"):
    json_schema: _Schema


class _Body(Struct):
    model: Annotated[str, Meta(min_length=1, max_length=1024)]
    messages: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=10_000)]
    temperature: Annotated[float, Meta(le=100)] | None = None
    top_p: Share | None = None
    top_k: TopK | None = None
    min_p: Chance | None = None
    seed: Annotated[int, Meta(ge=0)] | None = None
    repetition_penalty: RepetitionPenalty | None = None
    repeat_last_n: LastTokens | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    typical_p: Share | None = None
    top_n_sigma: TopNSigma | None = None
    xtc_probability: Chance | None = None
    xtc_threshold: Chance | None = None
    dry_multiplier: DryMultiplier | None = None
    dry_base: DryBase | None = None
    dry_allowed_length: DryAllowedLength | None = None
    dry_penalty_last_n: LastTokens | None = None
    dry_sequence_breakers: Annotated[list[DryBreaker], Meta(max_length=16)] | None = None
    logit_bias: Annotated[dict[str, msgspec.Raw], Meta(max_length=1024)] | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    ignore_eos: bool | None = None
    max_completion_tokens: _Count | None = None
    max_tokens: _Count | None = None
    stop: _Stop | Annotated[list[_Stop], Meta(max_length=16)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: _Text | _JsonObject | _JsonSchema | None = None
    regex: str | None = None
    grammar: str | None = None
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
_bias_decoder: Final = msgspec.json.Decoder(Annotated[float, Meta(ge=-100, le=100)])


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
        sampling=_sampling(call),
        max_tokens=max_tokens,
        stop=(call.stop,) if isinstance(call.stop, str) else tuple(call.stop or ()),
        include_thinking=include_thinking,
        choices=call.n or 1,
        top_logprobs=_top_logprobs(call),
        grammar=_grammar(call),
        principal=principal,
        whole=not call.stream,
    )
    return ChatCompletionCall(request=request, stream=bool(call.stream))


def _sampling(call: _Body) -> SamplingParams:
    breakers = call.dry_sequence_breakers
    return SamplingParams(
        temperature=call.temperature,
        top_p=call.top_p,
        top_k=call.top_k,
        min_p=call.min_p,
        seed=call.seed,
        repetition_penalty=call.repetition_penalty,
        repeat_last_n=call.repeat_last_n,
        frequency_penalty=call.frequency_penalty,
        presence_penalty=call.presence_penalty,
        typical_p=call.typical_p,
        top_n_sigma=call.top_n_sigma,
        xtc_probability=call.xtc_probability,
        xtc_threshold=call.xtc_threshold,
        dry_multiplier=call.dry_multiplier,
        dry_base=call.dry_base,
        dry_allowed_length=call.dry_allowed_length,
        dry_penalty_last_n=call.dry_penalty_last_n,
        dry_sequence_breakers=None if breakers is None else tuple(breakers),
        logit_bias=dict(_bias(token, raw) for token, raw in (call.logit_bias or {}).items()),
        min_tokens=call.min_tokens,
        ignore_eos=call.ignore_eos,
    )


def _bias(token: str, raw: msgspec.Raw) -> tuple[int, float]:
    """One entry of `logit_bias`. Its values are decoded one by one because msgspec's errors do not tell keys."""
    place = f"logit_bias.{token[:32]}"
    if _TOKEN.fullmatch(token) is None or int(token) > _MAX_TOKEN:
        raise InvalidRequest(f"{place}: the key is not the id of a token", param=place)
    try:
        return int(token), _bias_decoder.decode(raw)
    except msgspec.DecodeError as exc:
        raise InvalidRequest(f"{place}: {exc}", param=place) from None


def _top_logprobs(call: _Body) -> int | None:
    if call.logprobs:
        return call.top_logprobs or 0
    if call.top_logprobs is not None:
        raise InvalidRequest("top_logprobs: only where `logprobs` is true", param="top_logprobs")
    return None


def _grammar(call: _Body) -> Grammar | None:
    """What the reply must look like. A schema becomes text again, in the order it was written: the engine reads it."""
    grammars: dict[str, Grammar] = {}
    match call.response_format:
        case _JsonObject():
            grammars["response_format"] = Grammar("json_schema", '{"type":"object"}')
        case _JsonSchema(json_schema=_Schema(schema)):
            if not isinstance(schema, bool):
                check_free_form(schema, param="response_format.json_schema.schema")
            grammars["response_format"] = Grammar("json_schema", msgspec.json.encode(schema).decode())
        case _Text() | None:
            pass
    if call.regex is not None:
        grammars["regex"] = Grammar("regex", call.regex)
    if call.grammar is not None:
        grammars["grammar"] = Grammar("lark", call.grammar)
    if len(grammars) > 1:
        names = tuple(grammars)
        raise InvalidRequest(f"{' and '.join(names)}: only one can say what the reply looks like", param=names[-1])
    for name, grammar in grammars.items():
        if len(grammar.source.encode()) > _MAX_GRAMMAR_BYTES:
            raise InvalidRequest(f"{name}: longer than {_MAX_GRAMMAR_BYTES} bytes", param=name)
        return grammar
    return None


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
