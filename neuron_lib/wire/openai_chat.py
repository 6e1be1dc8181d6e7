"""Reads the bodies of OpenAI's `POST /v1/chat/completions`. `openai_chat_reply` writes the replies.

Checks every bound that a request must keep before a model is asked. Knows no status codes and opens no connection.
"""

from collections.abc import Mapping
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta, Struct, convert
from msgspec.structs import replace

from neuron_lib.types import ChatRequest, Principal, UnreadObject
from neuron_lib.wire.bodies import NOTHING, decode_body, decode_part, is_given, read_as
from neuron_lib.wire.chat_messages import Messages, Tools, read_messages, read_tools
from neuron_lib.wire.dialect import Shapes
from neuron_lib.wire.json_bounds import check_nesting_and_numbers, check_u64, refusal
from neuron_lib.wire.legacy_functions import Function, FunctionCallField, tool_choice_of, tools_of
from neuron_lib.wire.openai_chat_reply import ChatChunk, ChatCollector, ChatCompletion, ChatStreamEncoder
from neuron_lib.wire.reasoning_fields import (
    Budget,
    Effort,
    Reasoning,
    ReasoningChoice,
    Thinking,
    read_reasoning,
    template_words,
)
from neuron_lib.wire.refused_parameters import decoder_with_refused, refuse_unsupported
from neuron_lib.wire.reply_shape import ReplyShapeFields, grammar_of
from neuron_lib.wire.sampling_fields import read_sampling
from neuron_lib.wire.tool_choice import Offer, ToolChoiceField, offer_tools

__all__ = ("SHAPES", "ChatCompletionBody", "ChatCompletionRequest", "decode")

_INCLUDE_THINKING: Final = frozenset({"1", "true", "yes"})
"""Values of the header `x-include-thinking` that ask for the reasoning as text."""

_MAX_STOPS: Final = 16

_CountOrDefault: TypeAlias = Annotated[int, Meta(ge=-1)]
_Stop: TypeAlias = Annotated[str, Meta(max_length=1024)]
_Stops: TypeAlias = _Stop | list[_Stop]


class _Object(Struct, gc=False):
    """Any object. Its keys are not looked at."""


class _StreamOptions(Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class ChatCompletionBody(ReplyShapeFields, frozen=True, kw_only=True):
    """Every field that has an effect. `refused_parameters` has those that would need one and do not."""

    model: Annotated[str, Meta(min_length=1, max_length=1024)]
    messages: Annotated[msgspec.Raw, read_as(Messages)]
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
    tools: Annotated[msgspec.Raw, read_as(Tools)] = NOTHING
    functions: Annotated[msgspec.Raw, read_as(list[Function])] = NOTHING
    function_call: FunctionCallField | None = None
    tool_choice: ToolChoiceField | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: Annotated[msgspec.Raw, read_as(_Object)] = NOTHING
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    enable_thinking: bool | None = None
    reasoning_effort: Effort | None = None
    reasoning: Reasoning | None = None
    thinking: Thinking | bool | None = None
    thinking_budget_tokens: Budget | None = None
    reasoning_budget_tokens: Budget | None = None
    reasoning_budget: Budget | None = None
    thinking_token_budget: Budget | None = None
    thinking_budget: Budget | None = None
    documents: Annotated[msgspec.Raw, read_as(list[_Object])] = NOTHING


_decoder: Final = decoder_with_refused(ChatCompletionBody)
_object_decoder: Final = msgspec.json.Decoder(_Object)
_objects_decoder: Final = msgspec.json.Decoder(list[_Object])


SHAPES: Final = Shapes(
    summary="The next message of a chat, as OpenAI's chat completions",
    request=ChatCompletionBody,
    reply=ChatCompletion,
    event=ChatChunk,
    last_data="[DONE]",
)


class ChatCompletionRequest(Struct, frozen=True, kw_only=True):
    """A `neuron_lib.wire.dialect.DecodedRequest`: the task, and how the client wants the reply.

    `include_usage` asks for the usage of a stream in an event of its own, `continuous_usage` for the usage so far in
    every event. With `calls_functions` a call is written as the `function_call` of older clients.
    """

    task: ChatRequest
    stream: bool
    include_usage: bool = False
    continuous_usage: bool = False
    calls_functions: bool = False

    def encoder(self, *, unique: str, created: int) -> ChatStreamEncoder:
        """What writes the reply as a stream. The reply has the model's id as the client wrote it."""
        return ChatStreamEncoder(
            id=_completion_id(unique),
            created=created,
            model=self.task.model_id,
            choices=self.task.choices,
            include_usage=self.include_usage,
            continuous_usage=self.continuous_usage,
            calls_functions=self.calls_functions,
            parallel_tool_calls=self.task.tool_choice.parallel,
        )

    def collector(self, *, unique: str, created: int) -> ChatCollector:
        """What writes the reply in one piece. The reply has the model's id as the client wrote it."""
        return ChatCollector(
            id=_completion_id(unique),
            created=created,
            model=self.task.model_id,
            calls_functions=self.calls_functions,
            parallel_tool_calls=self.task.tool_choice.parallel,
        )


def decode(body: bytes, *, headers: Mapping[str, str], principal: Principal | None) -> ChatCompletionRequest:
    """The request in `body`. `null` means the same as an absent field, and unknown fields are ignored.

    The header `x-include-thinking` asks for the reasoning as a part of the text. It is also the default of
    `enable_thinking`. Raises what `decode_body` raises, also for values that are out of bounds.
    """
    call = _with_tools(decode_body(_decoder, body, content_type=headers.get("content-type")))
    include_thinking = headers.get("x-include-thinking", "").strip().lower() in _INCLUDE_THINKING
    refuse_unsupported(call)
    options = _stream_options(call)
    offer = _offer(call)
    reasoning = read_reasoning(call)
    task = ChatRequest(
        model_id=call.model,
        messages=read_messages(call.messages),
        tools=offer.tools,
        tool_choice=offer.choice,
        template_kwargs=_template_kwargs(call, reasoning, include_thinking=include_thinking),
        reasoning_budget=reasoning.budget,
        continue_final_message=_continues(call),
        sampling=read_sampling(call),
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
        include_usage=options.include_usage or False,
        continuous_usage=options.continuous_usage_stats or False,
        calls_functions=is_given(call.functions),
    )


def _with_tools(call: ChatCompletionBody) -> ChatCompletionBody:
    """The body with `functions` and `function_call` as the tools and the choice that they mean."""
    tools, names = tools_of(call.functions) if is_given(call.functions) else (NOTHING, frozenset[str]())
    choice = tool_choice_of(call.function_call, names)
    if not names:
        return call
    for older, newer in (("functions", call.tools), ("function_call", call.tool_choice)):
        if newer is not None and newer != NOTHING:
            raise refusal(older, "beside `tools` and `tool_choice` this has no meaning")
    return replace(call, tools=tools, tool_choice=convert(choice, ToolChoiceField | None))


def _completion_id(unique: str) -> str:
    return f"chatcmpl-{unique}"


def _stream_options(call: ChatCompletionBody) -> _StreamOptions:
    if call.stream_options is not None and not call.stream:
        raise refusal("stream_options", "only where `stream` is true")
    return call.stream_options or _StreamOptions()


def _offer(call: ChatCompletionBody) -> Offer:
    """The tools that the model may call. A client that has `functions` takes one call."""
    tools = read_tools(call.tools) if is_given(call.tools) else ()
    parallel = False if is_given(call.functions) else call.parallel_tool_calls
    return offer_tools(tools or (), call.tool_choice, parallel=parallel)


def _continues(call: ChatCompletionBody) -> bool | None:
    """Whether the last message is continued. None leaves that to the role of the message."""
    if call.continue_final_message and call.add_generation_prompt:
        raise refusal("continue_final_message", "it contradicts `add_generation_prompt`")
    if call.continue_final_message is None and call.add_generation_prompt:
        return False
    return call.continue_final_message


def _template_kwargs(call: ChatCompletionBody, reasoning: ReasoningChoice, *, include_thinking: bool) -> UnreadObject:
    """The arguments of the template beside messages and tools, as one JSON object.

    A name may be in the object twice, for example once of `enable_thinking` and once of `chat_template_kwargs`. The
    decoder takes the last one.
    """
    given = template_words(reasoning, default=include_thinking)
    if call.add_generation_prompt is not None:
        given["add_generation_prompt"] = call.add_generation_prompt
    told = [msgspec.json.encode(given)[1:-1]]
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


def _max_tokens(call: ChatCompletionBody) -> int | None:
    """How many tokens the reply may have; None for the default.

    Three fields say it: `max_completion_tokens` counts before `max_tokens`, and `max_tokens` before `n_predict`. A
    field that is -1 or absent does not count.
    """
    wanted = None
    for name in ("n_predict", "max_tokens", "max_completion_tokens"):
        count = getattr(call, name)
        if count == 0:
            raise refusal(name, "Expected `int` >= 1, or -1 for the default")
        check_u64(count, name)
        wanted = wanted if count in {None, -1} else count
    return wanted


def _stop(call: ChatCompletionBody) -> tuple[str, ...]:
    """The texts that end the reply. `stop` is OpenAI's field, `stop_sequences` Anthropic's. Empty texts are dropped."""
    stops: list[str] = []
    for name in ("stop", "stop_sequences"):
        value = getattr(call, name) or []
        stops += [text for text in ([value] if isinstance(value, str) else value) if text and text not in stops]
        if len(stops) > _MAX_STOPS:
            raise refusal(name, f"Expected `array` of length <= {_MAX_STOPS}")
    return tuple(stops)


def _top_logprobs(call: ChatCompletionBody) -> int | None:
    if call.logprobs:
        return call.top_logprobs or 0
    if call.top_logprobs:
        raise refusal("top_logprobs", "only where `logprobs` is true")
    return None
