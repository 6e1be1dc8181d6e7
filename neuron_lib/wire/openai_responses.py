"""Reads the bodies of OpenAI's `POST /v1/responses`. `openai_responses_reply` writes the replies.

Nothing is kept between requests: whatever refers to an earlier response, a conversation or a file is refused. Knows no
status codes and opens no connection.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from neuron_lib.types import Chat, Principal, UnreadObject
from neuron_lib.wire.bodies import NOTHING, AnyObject, decode_body, is_given, read_as
from neuron_lib.wire.dialect import Shapes
from neuron_lib.wire.field_types import CountOrDefault, ModelId
from neuron_lib.wire.json_bounds import check_nesting_and_numbers, check_u64, refusal
from neuron_lib.wire.keep_alive import KeepAlive, read_keep_alive
from neuron_lib.wire.openai_responses_errors import ChainedConversation
from neuron_lib.wire.openai_responses_input import Input, read_input
from neuron_lib.wire.openai_responses_reply import (
    ReasoningShown,
    Response,
    ResponseCollector,
    ResponseEvent,
    ResponseStreamEncoder,
    Text,
)
from neuron_lib.wire.openai_responses_tools import Tool, read_tools
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
from neuron_lib.wire.reply_shape import Format, ReplyShapeFields, grammar_of, shapes_of_format
from neuron_lib.wire.sampling_fields import read_sampling
from neuron_lib.wire.template_fields import template_kwargs
from neuron_lib.wire.tool_choice import ToolChoiceField

__all__ = ("SHAPES", "ResponsesBody", "ResponsesRequest", "decode")

_Note: TypeAlias = Annotated[str, Meta(max_length=1024)]
_MetadataValue: TypeAlias = Annotated[str, Meta(max_length=512)]
_Summary: TypeAlias = Literal["auto", "concise", "detailed", "none"]

_LONGEST_KEY: Final = 64
"""Of `metadata`, in characters."""
_ENCRYPTED: Final = "reasoning.encrypted_content"
_LOGPROBS: Final = "message.output_text.logprobs"
_INCLUDABLE: Final = frozenset(
    {
        _ENCRYPTED,
        _LOGPROBS,
        "code_interpreter_call.outputs",
        "computer_call_output.output.image_url",
        "file_search_call.results",
        "message.input_image.image_url",
        "web_search_call.action.sources",
        "web_search_call.results",
    }
)
"""What OpenAI's clients may ask to be included. The results of OpenAI's own tools change no answer, because none of
these tools runs here.
"""


class _TextFields(Struct):
    format: Annotated[msgspec.Raw, read_as(Format)] = NOTHING
    verbosity: Literal["low", "medium", "high"] | None = None


class _ReasoningFields(Reasoning):
    summary: _Summary | None = None
    generate_summary: _Summary | None = None
    context: Literal["auto"] | None = None
    mode: Literal["standard"] | None = None


class _StreamOptions(Struct):
    include_obfuscation: Literal[False] | None = None
    include_usage: bool | None = None


class ResponsesBody(ReplyShapeFields, frozen=True, kw_only=True):
    """Every field that has an effect, and those that the answer repeats. `_ELSEWHERE` has those that are refused."""

    model: ModelId
    input: Annotated[msgspec.Raw, read_as(Input)]
    instructions: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_output_tokens: CountOrDefault | None = None
    max_tool_calls: Annotated[int, Meta(ge=1)] | None = None
    text: _TextFields | None = None
    reasoning: _ReasoningFields | None = None
    tools: Annotated[msgspec.Raw, read_as(list[Tool])] = NOTHING
    tool_choice: Annotated[msgspec.Raw, read_as(ToolChoiceField)] = NOTHING
    parallel_tool_calls: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    include: Annotated[list[str], Meta(max_length=64)] | None = None
    metadata: Annotated[dict[str, _MetadataValue], Meta(max_length=16)] | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    user: _Note | None = None
    safety_identifier: _Note | None = None
    prompt_cache_key: _Note | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: Annotated[msgspec.Raw, read_as(AnyObject)] = NOTHING
    enable_thinking: bool | None = None
    reasoning_effort: Effort | None = None
    thinking: Thinking | bool | None = None
    thinking_budget_tokens: Budget | None = None
    reasoning_budget_tokens: Budget | None = None
    reasoning_budget: Budget | None = None
    thinking_token_budget: Budget | None = None
    thinking_budget: Budget | None = None
    keep_alive: KeepAlive | None = None


_ELSEWHERE: Final[Mapping[str, tuple[object, ...]]] = {
    "background": (False,),
    "background_options": (),
    "context_management": (),
    "conversation": (),
    "generate": (True,),
    "moderation": (),
    "prompt": (),
    # OpenAI's chat completions
    "add_generation_prompt": (True,),
    "documents": (),
    "function_call": ("none", "auto"),
    "functions": (),
    "logprobs": (False,),
    "max_completion_tokens": (),
    "max_tokens": (),
    "messages": (),
    "n": (1,),
    "n_predict": (),
    "stop": (),
    "stop_sequences": (),
}
"""Fields that this API does not have, or that need something that this host does not have. See `refuse_unsupported`."""

_decoder: Final = decoder_with_refused(ResponsesBody, also=_ELSEWHERE)


SHAPES: Final = Shapes(
    summary="A response to an input, as OpenAI's Responses API",
    request=ResponsesBody,
    reply=Response,
    event=ResponseEvent,
)


class ResponsesRequest(Struct, frozen=True):
    """A `neuron_lib.wire.dialect.DecodedRequest`: the task, whether to stream, and what the answer repeats.

    With `carries_reasoning` the client can send the reasoning back even if it shows none.
    """

    task: Chat
    stream: bool
    response: Response
    carries_reasoning: bool = False

    def encoder(self, *, unique: str, created: int) -> ResponseStreamEncoder:
        """What writes the reply as a stream. The reply has the model's id as the client wrote it."""
        response = self._begun(unique, created)
        return ResponseStreamEncoder(response, unique=unique, carries_reasoning=self.carries_reasoning)

    def collector(self, *, unique: str, created: int) -> ResponseCollector:
        """What writes the reply in one piece."""
        response = self._begun(unique, created)
        return ResponseCollector(response, unique=unique, carries_reasoning=self.carries_reasoning)

    def _begun(self, unique: str, created: int) -> Response:
        return replace(self.response, id=f"resp_{unique}", created_at=created)


def decode(body: bytes, *, headers: Mapping[str, str], principal: Principal | None) -> ResponsesRequest:
    """The request in `body`. `null` means the same as an absent field, and unknown fields are ignored.

    Raises what `decode_body` raises, also for values that are out of bounds, and `ChainedConversation`.
    """
    call = decode_body(_decoder, body, content_type=headers.get("content-type"))
    if call.previous_response_id is not None:
        raise ChainedConversation
    refuse_unsupported(call, also=_ELSEWHERE)
    if call.stream_options is not None and not call.stream:
        raise refusal("stream_options", "only where `stream` is true")
    tools = read_tools(call.tools, call.tool_choice, parallel=call.parallel_tool_calls)
    conversation = read_input(call.input, instructions=call.instructions)
    reasoning = read_reasoning(call)
    text = _text(call)
    max_tokens = _max_tokens(call)
    task = Chat(
        model_id=call.model,
        messages=conversation.messages,
        tools=tools.offer.tools,
        tool_choice=tools.offer.choice,
        template_kwargs=_template_kwargs(call, reasoning),
        reasoning_budget=reasoning.budget,
        sampling=read_sampling(call),
        max_tokens=max_tokens,
        top_logprobs=_top_logprobs(call),
        grammar=grammar_of(call, also=shapes_of_format(text.format, "text.format", missing="schema")),
        principal=principal,
        whole=not call.stream,
        keep_alive_s=read_keep_alive(call.keep_alive),
        continue_final_message=(
            conversation.goes_on if call.continue_final_message is None else call.continue_final_message
        ),
    )
    response = Response(
        instructions=call.instructions,
        max_output_tokens=max_tokens,
        max_tool_calls=call.max_tool_calls,
        metadata=_metadata(call),
        model=call.model,
        parallel_tool_calls=call.parallel_tool_calls is not False,
        prompt_cache_key=call.prompt_cache_key,
        reasoning=ReasoningShown(effort=reasoning.effort, summary=_summary(call)),
        safety_identifier=call.safety_identifier,
        temperature=call.temperature,
        text=text,
        tool_choice=tools.shown_choice,
        tools=tools.shown,
        top_logprobs=call.top_logprobs or 0,
        top_p=call.top_p,
        user=call.user,
    )
    return ResponsesRequest(
        task,
        stream=bool(call.stream),
        response=response,
        carries_reasoning=call.store is False or _ENCRYPTED in (call.include or ()),
    )


def _summary(call: ResponsesBody) -> _Summary | None:
    asked = call.reasoning or _ReasoningFields()
    return asked.summary or asked.generate_summary


def _text(call: ResponsesBody) -> Text:
    asked = call.text or _TextFields()
    shown = Text() if asked.verbosity is None else Text(verbosity=asked.verbosity)
    if not is_given(asked.format):
        return shown
    check_nesting_and_numbers(bytes(asked.format), param="text.format")
    return replace(shown, format=msgspec.Raw(msgspec.json.format(bytes(asked.format), indent=-1)))


def _template_kwargs(call: ResponsesBody, reasoning: ReasoningChoice) -> UnreadObject:
    """The arguments of the template. A model also reasons if the client asks for a summary."""
    if reasoning.thinks is None and _summary(call) not in {None, "none"}:
        reasoning = reasoning._replace(thinks=True)
    words = template_words(reasoning, default=False)
    if call.text is not None and call.text.verbosity is not None:
        words["verbosity"] = call.text.verbosity
    return template_kwargs(words, call.chat_template_kwargs)


def _metadata(call: ResponsesBody) -> dict[str, str]:
    metadata = call.metadata or {}
    if any(len(key) > _LONGEST_KEY for key in metadata):
        raise refusal("metadata", f"Expected keys of length <= {_LONGEST_KEY}")
    return metadata


def _max_tokens(call: ResponsesBody) -> int | None:
    count = call.max_output_tokens
    if count == 0:
        raise refusal("max_output_tokens", "Expected `int` >= 1, or -1 for the default")
    check_u64(count, "max_output_tokens")
    return None if count == -1 else count


def _top_logprobs(call: ResponsesBody) -> int | None:
    """How many rivals of each token are wanted. None if no log-probabilities are."""
    for name in call.include or ():
        if name not in _INCLUDABLE:
            raise refusal("include", f"expected some of {', '.join(sorted(_INCLUDABLE))}")
    return (call.top_logprobs or 0) if call.top_logprobs or _LOGPROBS in (call.include or ()) else None
