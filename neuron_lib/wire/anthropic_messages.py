"""Reads the bodies of Anthropic's `POST /v1/messages`. `anthropic_reply` writes the replies.

Checks every bound that a request must keep before a model is asked. Knows no status codes and opens no connection.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from neuron_lib.types import Chat, Grammar, Principal, UnreadObject
from neuron_lib.wire.anthropic_content import Messages, System, read_conversation
from neuron_lib.wire.anthropic_errors import AnthropicError
from neuron_lib.wire.anthropic_reply import Event, Message, MessageCollector, MessageStreamEncoder, ReplyStyle
from neuron_lib.wire.anthropic_tools import ToolChoiceField, Tools, read_tool_choice, read_tools
from neuron_lib.wire.bodies import NOTHING, decode_body, is_given, read_as
from neuron_lib.wire.dialect import Shapes
from neuron_lib.wire.json_bounds import check_u64, refusal
from neuron_lib.wire.reply_shape import Format, shapes_of_format
from neuron_lib.wire.sampling_fields import SamplingFields, read_sampling

__all__ = ("SHAPES", "MessagesBody", "MessagesRequest", "PromptBody", "chat_of", "decode")

_MAX_STOPS: Final = 16

_Stop: TypeAlias = Annotated[str, Meta(max_length=1024)]

_EFFORTS: Final = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
"""Chat templates know three efforts. Anthropic's two greater ones are the greatest of these."""


_UNSUPPORTED: Final = {
    "compaction": "no conversation is edited here",
    "container": "no tools run here",
    "thread": "no conversation is kept here",
}


class _Thinking(Struct, frozen=True):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Meta(ge=1)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class _OutputConfig(Struct, frozen=True):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: Annotated[msgspec.Raw, read_as(Format)] = NOTHING
    task_budget: msgspec.Raw = NOTHING


class _Edit(Struct, frozen=True):
    type: str


class _ContextManagement(Struct, frozen=True):
    edits: list[_Edit] = []


class PromptBody(SamplingFields, frozen=True, kw_only=True):
    """Every field that has an effect, and those that would need one and are refused. Nothing says how long the reply
    may be.

    `SamplingFields` has more fields than Anthropic's API. All of them have an effect.
    """

    model: Annotated[str, Meta(min_length=1, max_length=1024)]
    messages: Annotated[msgspec.Raw, read_as(Messages)]
    system: Annotated[msgspec.Raw, read_as(System)] = NOTHING
    stop_sequences: list[_Stop] | None = None
    stream: bool | None = None
    thinking: _Thinking | None = None
    tools: Annotated[msgspec.Raw, read_as(Tools)] = NOTHING
    tool_choice: ToolChoiceField | None = None
    output_config: _OutputConfig | None = None
    output_format: Annotated[msgspec.Raw, read_as(Format)] = NOTHING
    service_tier: Literal["auto", "standard_only"] | None = None
    compaction: msgspec.Raw = NOTHING
    container: msgspec.Raw = NOTHING
    thread: msgspec.Raw = NOTHING
    context_management: _ContextManagement | None = None
    mcp_servers: list[msgspec.Raw] | None = None
    inference_geo: str | None = None


class MessagesBody(PromptBody, frozen=True, kw_only=True):
    """The body of a request for a message."""

    max_tokens: Annotated[int, Meta(ge=1)]


_decoder: Final = msgspec.json.Decoder(MessagesBody)

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
    return Chat(
        model_id=call.model,
        messages=read_conversation(call.system, call.messages),
        tools=() if choice.mode == "none" else tools,
        tool_choice=choice,
        template_kwargs=_template_kwargs(call),
        sampling=read_sampling(call),
        max_tokens=max_tokens,
        stop=_stop(call.stop_sequences or []),
        grammar=_grammar(call),
        reasoning_budget=_reasoning_budget(call.thinking),
        principal=principal,
        whole=not call.stream,
    )


def _refuse_unsupported(call: PromptBody) -> None:
    for name, why in _UNSUPPORTED.items():
        if is_given(getattr(call, name)):
            raise refusal(name, f"this is not supported: {why}")
    if call.mcp_servers:
        raise refusal("mcp_servers", "this is not supported: no tools run here")
    if call.inference_geo not in {None, "global"}:
        raise refusal("inference_geo", "this is not supported: this host knows no region")
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


def _grammar(call: PromptBody) -> Grammar | None:
    """What the text of the reply must look like. `output_format` is the older name of `output_config.format`."""
    formats = {"output_config.format": call.output_config.format if call.output_config else NOTHING}
    formats["output_format"] = call.output_format
    given = {field: text for field, text in formats.items() if is_given(text)}
    if len(given) > 1:
        raise refusal("output_format", "it says the same as `output_config.format`, and only one may be given")
    shapes = (shape for field, text in given.items() for shape in shapes_of_format(text, field, missing="schema"))
    return next((grammar for _, grammar in shapes), None)


def _template_kwargs(call: PromptBody) -> UnreadObject:
    config = call.output_config or _OutputConfig()
    if is_given(config.task_budget):
        raise refusal("output_config.task_budget", "this is not supported")
    told: dict[str, Any] = {"enable_thinking": call.thinking is not None and call.thinking.type != "disabled"}
    if config.effort is not None:
        told["reasoning_effort"] = _EFFORTS[config.effort]
    return UnreadObject(msgspec.json.encode(told))


def _reasoning_budget(thinking: _Thinking | None) -> int | None:
    if thinking is None or thinking.type != "enabled":
        return None
    if thinking.budget_tokens is None:
        raise refusal("thinking.budget_tokens", "this field is required")
    check_u64(thinking.budget_tokens, "thinking.budget_tokens")
    return thinking.budget_tokens


def _shown_thinking(thinking: _Thinking | None) -> Literal["shown", "omitted", "hidden"]:
    if thinking is None or thinking.type == "disabled":
        return "hidden"
    return "omitted" if thinking.display == "omitted" else "shown"
