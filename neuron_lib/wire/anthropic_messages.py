"""Reads the bodies of Anthropic's `POST /v1/messages`. `anthropic_reply` writes the replies.

Checks every bound that a request must keep before a model is asked. Knows no status codes and opens no connection.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from neuron_lib.types import Chat, Grammar, Principal
from neuron_lib.wire.anthropic_content import Messages, System, read_conversation
from neuron_lib.wire.anthropic_errors import AnthropicError, ThreadUnsupported
from neuron_lib.wire.anthropic_reply import Event, Message, MessageCollector, MessageStreamEncoder, ReplyStyle
from neuron_lib.wire.anthropic_tools import ToolChoiceField, Tools, read_tool_choice, read_tools
from neuron_lib.wire.bodies import NOTHING, AnyObject, decode_body, is_given, read_as
from neuron_lib.wire.dialect import Shapes
from neuron_lib.wire.field_types import ModelId, StopText
from neuron_lib.wire.json_bounds import check_u64, refusal
from neuron_lib.wire.reasoning_fields import ReasoningChoice, template_words
from neuron_lib.wire.refused_parameters import Refused, decoder_with_refused, refuse_unsupported
from neuron_lib.wire.reply_shape import Format, ReplyShapeFields, grammar_of, shapes_of_format
from neuron_lib.wire.sampling_fields import read_sampling
from neuron_lib.wire.template_fields import template_kwargs

__all__ = ("ELSEWHERE", "SHAPES", "MessagesBody", "MessagesRequest", "PromptBody", "chat_of", "decode")

_MAX_STOPS: Final = 16


_EFFORTS: Final = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
"""Chat templates know three efforts. Anthropic's two greater ones are the greatest of these."""


class _Thinking(Struct, frozen=True):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class _OutputConfig(Struct, frozen=True):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: Annotated[msgspec.Raw, read_as(Format)] = NOTHING
    task_budget: msgspec.Raw = NOTHING


class _Edit(Struct, frozen=True):
    type: str


class _ContextManagement(Struct, frozen=True):
    edits: list[_Edit] = []


class PromptBody(ReplyShapeFields, frozen=True, kw_only=True):
    """Every field that has an effect, except how long the reply may be. `ELSEWHERE` has those that are refused.

    `ReplyShapeFields` has more fields than Anthropic's API. All of them have an effect.
    """

    model: ModelId
    messages: Annotated[msgspec.Raw, read_as(Messages)]
    system: Annotated[msgspec.Raw, read_as(System)] = NOTHING
    stop_sequences: list[StopText] | None = None
    stream: bool | None = None
    thinking: _Thinking | None = None
    tools: Annotated[msgspec.Raw, read_as(Tools)] = NOTHING
    tool_choice: ToolChoiceField | None = None
    output_config: _OutputConfig | None = None
    output_format: Annotated[msgspec.Raw, read_as(Format)] = NOTHING
    service_tier: Literal["auto", "standard_only"] | None = None
    thread: msgspec.Raw = NOTHING
    context_management: _ContextManagement | None = None
    chat_template_kwargs: Annotated[msgspec.Raw, read_as(AnyObject)] = NOTHING
    continue_final_message: bool | None = None


class MessagesBody(PromptBody, frozen=True, kw_only=True):
    """The body of a request for a message."""

    max_tokens: Annotated[int, Meta(ge=1)]


ELSEWHERE: Final[Refused] = {
    "compaction": (),
    "container": (),
    "inference_geo": ("global",),
    "mcp_servers": (),
    # OpenAI's APIs and other servers
    "add_generation_prompt": (True,),
    "documents": (),
    "enable_thinking": (),
    "function_call": ("none", "auto"),
    "functions": (),
    "input": (),
    "instructions": (),
    "logprobs": (False,),
    "max_completion_tokens": (),
    "max_output_tokens": (),
    "n": (1,),
    "n_predict": (),
    "parallel_tool_calls": (True,),
    "prompt": (),
    "reasoning": (),
    "reasoning_budget": (),
    "reasoning_budget_tokens": (),
    "reasoning_effort": (),
    "stop": (),
    "thinking_budget": (),
    "thinking_budget_tokens": (),
    "thinking_token_budget": (),
    "top_logprobs": (0,),
}
"""Fields that this API does not have, or that need something that this host does not have. See `refuse_unsupported`."""

_INSTEAD: Final = {
    "compaction": ": no conversation is edited here",
    "container": ": no tools run here",
    "inference_geo": ": this host knows no region",
    "mcp_servers": ": no tools run here",
    "instructions": "; use `system`",
    "parallel_tool_calls": "; use `disable_parallel_tool_use` in `tool_choice`",
    "reasoning_effort": "; use `output_config`",
    "stop": "; use `stop_sequences`",
    **dict.fromkeys(("max_completion_tokens", "max_output_tokens", "n_predict"), "; use `max_tokens`"),
    **dict.fromkeys(
        ("enable_thinking", "reasoning", "reasoning_budget", "reasoning_budget_tokens", "thinking_budget"),
        "; use `thinking`",
    ),
    **dict.fromkeys(("thinking_budget_tokens", "thinking_token_budget"), "; use `thinking`"),
}

_decoder: Final = decoder_with_refused(MessagesBody, also=ELSEWHERE)

SHAPES: Final = Shapes(
    summary="The next message of a chat, as Anthropic's Messages API",
    request=MessagesBody,
    reply=Message,
    event=Event,
    error=AnthropicError,
)


class MessagesRequest(Struct, frozen=True, kw_only=True):
    """A `neuron_lib.wire.dialect.DecodedRequest`: the task, and how the client wants the reply."""

    task: Chat
    stream: bool
    style: ReplyStyle = ReplyStyle()

    def encoder(self, *, unique: str, created: int) -> MessageStreamEncoder:  # noqa: ARG002 - a message has no time
        """What writes the reply as a stream. The reply has the model's id as the client wrote it."""
        return MessageStreamEncoder(id=f"msg_{unique}", model=self.task.model_id, style=self.style)

    def collector(self, *, unique: str, created: int) -> MessageCollector:  # noqa: ARG002 - a message has no time
        """What writes the reply in one piece. The reply has the model's id as the client wrote it."""
        return MessageCollector(id=f"msg_{unique}", model=self.task.model_id, style=self.style)


def decode(body: bytes, *, headers: Mapping[str, str], principal: Principal | None) -> MessagesRequest:
    """The request in `body`. `null` means the same as an absent field, and unknown fields are ignored.

    Raises what `decode_body` raises, also for values that are out of bounds.
    """
    call = decode_body(_decoder, body, content_type=headers.get("content-type"))
    check_u64(call.max_tokens, "max_tokens")
    task = chat_of(call, max_tokens=call.max_tokens, principal=principal)
    style = ReplyStyle(thinking=_shown_thinking(call.thinking), parallel_tool_use=task.tool_choice.parallel)
    return MessagesRequest(task=task, stream=bool(call.stream), style=style)


def chat_of(call: PromptBody, *, max_tokens: int | None, principal: Principal | None) -> Chat:
    """The chat that a body asks for. Raises `MalformedJson` or `InvalidRequest`."""
    _refuse_unsupported(call)
    tools, names = read_tools(call.tools)
    choice = read_tool_choice(call.tool_choice, names)
    reasoning = _reasoning(call)
    return Chat(
        model_id=call.model,
        messages=read_conversation(call.system, call.messages),
        tools=() if choice.mode == "none" else tools,
        tool_choice=choice,
        template_kwargs=template_kwargs(template_words(reasoning, default=False), call.chat_template_kwargs),
        sampling=read_sampling(call),
        max_tokens=max_tokens,
        stop=_stop(call.stop_sequences or []),
        grammar=grammar_of(call, also=_formats(call)),
        reasoning_budget=reasoning.budget,
        continue_final_message=call.continue_final_message,
        principal=principal,
        whole=not call.stream,
    )


def _refuse_unsupported(call: PromptBody) -> None:
    refuse_unsupported(call, also=ELSEWHERE, instead=_INSTEAD)
    if is_given(call.thread):
        raise refusal("thread", "this is not supported: no conversation is kept here", kind=ThreadUnsupported)
    for i, edit in enumerate(call.context_management.edits if call.context_management else ()):
        # The chat template of a model decides which reasoning of earlier turns the model sees.
        if not edit.type.startswith("clear_thinking_"):
            raise refusal(f"context_management.edits[{i}].type", "no conversation is edited here")


def _stop(texts: list[str]) -> tuple[str, ...]:
    """The texts that end the reply, each once. Empty texts are dropped."""
    stops = tuple(dict.fromkeys(filter(None, texts)))
    if len(stops) > _MAX_STOPS:
        raise refusal("stop_sequences", f"Expected `array` of length <= {_MAX_STOPS}")
    return stops


def _formats(call: PromptBody) -> Iterator[tuple[str, Grammar]]:
    """The shapes of the reply in Anthropic's fields. `output_format` is the older name of `output_config.format`."""
    if call.output_config is not None and is_given(call.output_config.format):
        yield from shapes_of_format(call.output_config.format, "output_config.format", missing="schema")
    if is_given(call.output_format):
        yield from shapes_of_format(call.output_format, "output_format", missing="schema")


def _reasoning(call: PromptBody) -> ReasoningChoice:
    thinking, config = call.thinking or _Thinking("disabled"), call.output_config or _OutputConfig()
    if is_given(config.task_budget):
        raise refusal("output_config.task_budget", "this is not supported")
    budget = thinking.budget_tokens if thinking.type == "enabled" else None
    if thinking.type == "enabled" and budget is None:
        raise refusal("thinking.budget_tokens", "this field is required")
    effort = None if config.effort is None else _EFFORTS[config.effort]
    return ReasoningChoice(thinking.type != "disabled", budget, effort)


def _shown_thinking(thinking: _Thinking | None) -> Literal["shown", "omitted", "hidden"]:
    if thinking is None or thinking.type == "disabled":
        return "hidden"
    return "omitted" if thinking.display == "omitted" else "shown"
