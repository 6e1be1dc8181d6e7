"""Reads the bodies of OpenAI's `POST /v1/chat/completions`. `openai_chat_reply` writes the replies.

Checks every bound that a request must keep before a model is asked. Knows no status codes and opens no connection.
"""

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct, convert
from msgspec.structs import replace

from neuron_lib.types import ChatRequest, Principal, UnreadObject
from neuron_lib.wire.bodies import NOTHING, AnyObject, decode_body, is_given, read_as
from neuron_lib.wire.chat_messages import Messages, Tools, read_messages, read_tools
from neuron_lib.wire.dialect import Shapes
from neuron_lib.wire.json_bounds import refusal
from neuron_lib.wire.keep_alive import read_keep_alive
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
from neuron_lib.wire.reply_shape import grammar_of
from neuron_lib.wire.sampling_fields import read_sampling
from neuron_lib.wire.template_fields import template_kwargs
from neuron_lib.wire.tool_choice import Offer, ToolChoiceField, offer_tools
from neuron_lib.wire.writing_fields import WritingFields, max_tokens_of, stop_of, stream_options_of

__all__ = ("SHAPES", "ChatCompletionBody", "ChatCompletionRequest", "decode", "read_chat")

_INCLUDE_THINKING: Final = frozenset({"1", "true", "yes"})
"""Values of the header `x-include-thinking` that ask for the reasoning as text."""


class ChatCompletionBody(WritingFields, frozen=True, kw_only=True):
    """Every field that has an effect. `refused_parameters` has those that would need one and do not."""

    messages: Annotated[msgspec.Raw, read_as(Messages)]
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: Annotated[msgspec.Raw, read_as(Tools)] = NOTHING
    functions: Annotated[msgspec.Raw, read_as(list[Function])] = NOTHING
    function_call: FunctionCallField | None = None
    tool_choice: ToolChoiceField | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: Annotated[msgspec.Raw, read_as(AnyObject)] = NOTHING
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
    documents: Annotated[msgspec.Raw, read_as(list[AnyObject])] = NOTHING


_decoder: Final = decoder_with_refused(ChatCompletionBody)


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
    call = decode_body(_decoder, body, content_type=headers.get("content-type"))
    options = stream_options_of(call)
    return ChatCompletionRequest(
        task=read_chat(call, headers=headers, principal=principal),
        stream=bool(call.stream),
        include_usage=options.include_usage or False,
        continuous_usage=options.continuous_usage_stats or False,
        calls_functions=is_given(call.functions),
    )


def read_chat(call: ChatCompletionBody, *, headers: Mapping[str, str], principal: Principal | None) -> ChatRequest:
    """The chat in a body from a decoder of `decoder_with_refused`. Raises `MalformedJson` or `InvalidRequest`."""
    refuse_unsupported(call)
    call = _with_tools(call)
    include_thinking = headers.get("x-include-thinking", "").strip().lower() in _INCLUDE_THINKING
    offer = _offer(call)
    reasoning = read_reasoning(call)
    return ChatRequest(
        model_id=call.model,
        messages=read_messages(call.messages),
        tools=offer.tools,
        tool_choice=offer.choice,
        template_kwargs=_template_kwargs(call, reasoning, include_thinking=include_thinking),
        reasoning_budget=reasoning.budget,
        continue_final_message=_continues(call),
        sampling=read_sampling(call),
        max_tokens=max_tokens_of(call),
        stop=stop_of(call),
        include_thinking=include_thinking,
        choices=call.n or 1,
        top_logprobs=_top_logprobs(call),
        grammar=grammar_of(call),
        principal=principal,
        whole=not call.stream,
        keep_alive_s=read_keep_alive(call.keep_alive),
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
    words = template_words(reasoning, default=include_thinking)
    if call.add_generation_prompt is not None:
        words["add_generation_prompt"] = call.add_generation_prompt
    return template_kwargs(words, call.chat_template_kwargs, documents=call.documents)


def _top_logprobs(call: ChatCompletionBody) -> int | None:
    if call.logprobs:
        return call.top_logprobs or 0
    if call.top_logprobs:
        raise refusal("top_logprobs", "only where `logprobs` is true")
    return None
