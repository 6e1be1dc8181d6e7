"""Reads the bodies of OpenAI's `POST /v1/chat/completions`. `openai_chat_reply` writes the replies.

Checks every bound that a request must keep before a model is asked. Knows no status codes and opens no connection.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Final, TypeAlias

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
    TopNSigma,
)
from neuron_lib.errors import InvalidRequest
from neuron_lib.types import ChatRequest, Principal, SamplingParams, UnreadArray, UnreadObject
from neuron_lib.wire.bodies import decode_body, decode_part
from neuron_lib.wire.chat_messages import read_messages, read_tools
from neuron_lib.wire.json_bounds import check_nesting_and_numbers, check_values, refusal
from neuron_lib.wire.openai_chat_reply import ChatCollector, ChatStreamEncoder
from neuron_lib.wire.refused_parameters import decoder_with_refused, refuse_unsupported
from neuron_lib.wire.reply_shape import NOTHING, ReplyShapeFields, grammar_of, is_given

__all__ = ("ChatCompletionRequest", "decode")

_INCLUDE_THINKING: Final = frozenset({"1", "true", "yes"})
"""Values of the header `x-include-thinking` that ask for the reasoning as text."""

_MAX_U64: Final = 2**64 - 1
"""The contract's integers are unsigned 64-bit ones, and that bound is beyond what `Meta` can say."""

_TOKEN: Final = re.compile(r"0|[1-9][0-9]{0,9}")
_MAX_TOKEN: Final = 2**31 - 1
_MAX_BIASES: Final = 1024
_MAX_STOPS: Final = 16

_CountOrDefault: TypeAlias = Annotated[int, Meta(ge=-1)]
_SeedOrRandom: TypeAlias = Annotated[int, Meta(ge=-1)]
_TopKOrOff: TypeAlias = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
_ShareOrLikeliest: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
_Stop: TypeAlias = Annotated[str, Meta(max_length=1024)]
_Stops: TypeAlias = _Stop | list[_Stop]


class _Object(Struct, gc=False):
    """Any object. Its keys are not looked at."""


class _ToolChoice(Struct):
    """OpenAI's choice of one tool, or a choice in Anthropic's shape, which the gateway passes on unchanged."""

    type: str | None = None
    disable_parallel_tool_use: bool | None = None


class _StreamOptions(Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class _Body(ReplyShapeFields, kw_only=True):
    """Every field that has an effect. `refused_parameters` has those that would need one and do not."""

    model: Annotated[str, Meta(min_length=1, max_length=1024)]
    messages: msgspec.Raw
    temperature: Annotated[float, Meta(le=100)] | None = None
    top_p: _ShareOrLikeliest | None = None
    top_k: _TopKOrOff | None = None
    min_p: Chance | None = None
    seed: _SeedOrRandom | None = None
    repetition_penalty: RepetitionPenalty | None = None
    repeat_penalty: RepetitionPenalty | None = None
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
    logit_bias: msgspec.Raw = NOTHING
    min_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    ignore_eos: bool | None = None
    max_completion_tokens: _CountOrDefault | None = None
    max_tokens: _CountOrDefault | None = None
    n_predict: _CountOrDefault | None = None
    stop: _Stops | None = None
    stop_sequences: _Stops | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    tools: msgspec.Raw = NOTHING
    tool_choice: str | _ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: msgspec.Raw = NOTHING
    add_generation_prompt: bool | None = None
    enable_thinking: bool | None = None
    reasoning_effort: str | None = None
    documents: msgspec.Raw = NOTHING


_decoder: Final = decoder_with_refused(_Body)
_object_decoder: Final = msgspec.json.Decoder(_Object)
_objects_decoder: Final = msgspec.json.Decoder(list[_Object])
_biases_decoder: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_bias_decoder: Final = msgspec.json.Decoder(Annotated[float, Meta(ge=-100, le=100)])


class ChatCompletionRequest(Struct, frozen=True, kw_only=True):
    """A `neuron_lib.wire.dialect.DecodedRequest`: the task, and how the client wants the reply.

    `include_usage` asks for the usage of a stream in an event of its own. Without `parallel_tool_calls` each choice
    calls at most one tool.
    """

    task: ChatRequest
    stream: bool
    include_usage: bool = False
    parallel_tool_calls: bool = True

    def encoder(self, *, unique: str, created: int) -> ChatStreamEncoder:
        """What writes the reply as a stream. The reply has the model's id as the client wrote it."""
        return ChatStreamEncoder(
            id=_completion_id(unique),
            created=created,
            model=self.task.model_id,
            choices=self.task.choices,
            include_usage=self.include_usage,
            parallel_tool_calls=self.parallel_tool_calls,
        )

    def collector(self, *, unique: str, created: int) -> ChatCollector:
        """What writes the reply in one piece. The reply has the model's id as the client wrote it."""
        return ChatCollector(
            id=_completion_id(unique),
            created=created,
            model=self.task.model_id,
            parallel_tool_calls=self.parallel_tool_calls,
        )


def decode(body: bytes, *, headers: Mapping[str, str], principal: Principal | None) -> ChatCompletionRequest:
    """The request in `body`. `null` means the same as an absent field, and unknown fields are ignored.

    The header `x-include-thinking` asks for the reasoning as a part of the text. It is also the default of
    `enable_thinking`. Raises what `decode_body` raises, also for values that are out of bounds.
    """
    call = decode_body(_decoder, body, content_type=headers.get("content-type"))
    include_thinking = headers.get("x-include-thinking", "").strip().lower() in _INCLUDE_THINKING
    refuse_unsupported(call)
    task = ChatRequest(
        model_id=call.model,
        messages=read_messages(call.messages),
        tools=_tools(call),
        template_kwargs=_template_kwargs(call, include_thinking=include_thinking),
        sampling=_sampling(call),
        max_tokens=_max_tokens(call),
        stop=_stop(call),
        include_thinking=include_thinking,
        choices=call.n or 1,
        top_logprobs=_top_logprobs(call),
        grammar=grammar_of(call),
        principal=principal,
        whole=not call.stream,
    )
    return ChatCompletionRequest(
        task=task,
        stream=bool(call.stream),
        include_usage=_includes_usage(call),
        parallel_tool_calls=_takes_many_calls(call),
    )


def _completion_id(unique: str) -> str:
    return f"chatcmpl-{unique}"


def _includes_usage(call: _Body) -> bool:
    options = call.stream_options
    if options is None:
        return False
    if not call.stream:
        raise refusal("stream_options", "only where `stream` is true")
    if options.continuous_usage_stats:
        raise refusal("stream_options.continuous_usage_stats", "this is not supported")
    return bool(options.include_usage)


def _tools(call: _Body) -> UnreadArray | tuple[()]:
    """The tools that the model may call. With the choice "none" the model does not see any tool."""
    tools = read_tools(call.tools) if is_given(call.tools) else ()
    choice = call.tool_choice.type or "" if isinstance(call.tool_choice, _ToolChoice) else call.tool_choice
    if choice not in {None, "auto", "none"}:
        problem = '"auto" and "none" are supported; "required" and the choice of a tool are not yet'
        raise refusal("tool_choice", problem)
    return tools if tools and choice != "none" else ()


def _takes_many_calls(call: _Body) -> bool:
    """Whether a choice may call several tools. OpenAI and Anthropic have different fields for this."""
    is_one = isinstance(call.tool_choice, _ToolChoice) and call.tool_choice.disable_parallel_tool_use
    return call.parallel_tool_calls is not False and not is_one


def _template_kwargs(call: _Body, *, include_thinking: bool) -> UnreadObject:
    """The arguments of the template beside messages and tools, as one JSON object.

    A name may be in the object twice, for example once of `enable_thinking` and once of `chat_template_kwargs`. The
    decoder takes the last one.
    """
    thinks = include_thinking if call.enable_thinking is None else call.enable_thinking
    told = [b'"enable_thinking":' + (b"true" if thinks else b"false")]
    if call.add_generation_prompt is not None:
        told.append(b'"add_generation_prompt":' + msgspec.json.encode(call.add_generation_prompt))
    if call.reasoning_effort is not None:
        told.append(b'"reasoning_effort":' + msgspec.json.encode(call.reasoning_effort))
    if is_given(call.documents):
        decode_part(_objects_decoder, call.documents, param="documents")
        told.append(b'"documents":' + _free_form(call.documents, "documents"))
    if is_given(call.chat_template_kwargs):
        decode_part(_object_decoder, call.chat_template_kwargs, param="chat_template_kwargs")
        inner = _free_form(call.chat_template_kwargs, "chat_template_kwargs")[1:-1]
        told += [inner] if inner.strip() else []
    return UnreadObject(b"{" + b",".join(told) + b"}")


def _free_form(part: msgspec.Raw, param: str) -> bytes:
    text = bytes(part)
    check_nesting_and_numbers(text, param=param)
    return text


def _max_tokens(call: _Body) -> int | None:
    """How many tokens the reply may have; None for the default.

    Three fields say it: `max_completion_tokens` counts before `max_tokens`, and `max_tokens` before `n_predict`. A
    field that is -1 or absent does not count.
    """
    wanted = None
    for name in ("n_predict", "max_tokens", "max_completion_tokens"):
        count = getattr(call, name)
        if count == 0:
            raise refusal(name, "Expected `int` >= 1, or -1 for the default")
        _check_u64(count, name)
        wanted = wanted if count in {None, -1} else count
    return wanted


def _check_u64(number: int | None, name: str) -> None:
    if (number or 0) > _MAX_U64:
        raise refusal(name, f"Expected `int` <= {_MAX_U64}")


def _stop(call: _Body) -> tuple[str, ...]:
    """The texts that end the reply. `stop` is OpenAI's field, `stop_sequences` Anthropic's. Empty texts are dropped."""
    stops: list[str] = []
    for name in ("stop", "stop_sequences"):
        value = getattr(call, name) or []
        stops += [text for text in ([value] if isinstance(value, str) else value) if text and text not in stops]
        if len(stops) > _MAX_STOPS:
            raise refusal(name, f"Expected `array` of length <= {_MAX_STOPS}")
    return tuple(stops)


def _sampling(call: _Body) -> SamplingParams:
    _check_u64(call.seed, "seed")
    breakers = call.dry_sequence_breakers
    top_k = 0 if call.top_k == -1 else call.top_k
    return SamplingParams(
        temperature=call.temperature,
        top_p=call.top_p or None,
        top_k=1 if call.top_p == 0 else top_k,  # the likeliest alone
        min_p=call.min_p,
        seed=None if call.seed == -1 else call.seed,
        repetition_penalty=_repetition_penalty(call),
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
        logit_bias=_biases(call.logit_bias) if is_given(call.logit_bias) else {},
        min_tokens=call.min_tokens,
        ignore_eos=call.ignore_eos,
    )


def _repetition_penalty(call: _Body) -> float | None:
    """Under vLLM's name and llama.cpp's."""
    if call.repetition_penalty is None or call.repeat_penalty in {None, call.repetition_penalty}:
        return call.repeat_penalty if call.repetition_penalty is None else call.repetition_penalty
    raise refusal("repeat_penalty", "it contradicts `repetition_penalty`")


def _biases(text: msgspec.Raw) -> dict[int, float]:
    check_values(bytes(text), most=2 * _MAX_BIASES, place="logit_bias")
    biases = decode_part(_biases_decoder, text, param="logit_bias")
    if len(biases) > _MAX_BIASES:
        raise refusal("logit_bias", f"Expected `object` of length <= {_MAX_BIASES}")
    return dict(_bias(token, raw) for token, raw in biases.items())


def _bias(token: str, raw: msgspec.Raw) -> tuple[int, float]:
    """One entry of `logit_bias`. Its values are decoded one by one because msgspec's errors do not tell keys."""
    place = f"logit_bias.{token[:32]}"
    if _TOKEN.fullmatch(token) is None or int(token) > _MAX_TOKEN:
        text = "the key is not the id of a token"
        raise InvalidRequest(f"{place}: {text}", param=place, summary="logit_bias: a key is not the id of a token")
    try:
        return int(token), _bias_decoder.decode(raw)
    except msgspec.DecodeError as exc:
        raise InvalidRequest(f"{place}: {exc}", param=place, summary=f"logit_bias: {exc}") from None


def _top_logprobs(call: _Body) -> int | None:
    if call.logprobs:
        return call.top_logprobs or 0
    if call.top_logprobs:
        raise refusal("top_logprobs", "only where `logprobs` is true")
    return None
