"""Reads the bodies of OpenAI's `POST /v1/completions`. `openai_completions_reply` writes the replies.

Checks every bound that a request must keep before a model is asked. Knows no status codes and opens no connection.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from neuron_lib.types import Complete, Principal
from neuron_lib.wire.bodies import NOTHING, decode_body, decode_part, is_given, read_as
from neuron_lib.wire.dialect import Shapes
from neuron_lib.wire.field_types import TokenId
from neuron_lib.wire.json_bounds import refusal
from neuron_lib.wire.keep_alive import read_keep_alive
from neuron_lib.wire.openai_completions_reply import (
    Completion,
    CompletionCollector,
    CompletionStreamEncoder,
)
from neuron_lib.wire.refused_parameters import Refused, decoder_with_refused, refuse_unsupported
from neuron_lib.wire.reply_shape import grammar_of
from neuron_lib.wire.sampling_fields import read_sampling
from neuron_lib.wire.writing_fields import WritingFields, max_tokens_of, stop_of, stream_options_of

__all__ = ("CHAT_FIELDS", "SHAPES", "CompletionBody", "CompletionRequest", "decode", "task_of")

_MAX_TOKENS: Final = 16
"""OpenAI's length of a reply if the request does not say one."""
_MAX_REPLIES: Final = 128
"""The replies to all prompts of one request."""

_Prompts: TypeAlias = str | list[str | TokenId | list[TokenId]]
"""A text, the tokens of one, or a list of either. Texts and tokens in one list are refused."""


CHAT_FIELDS: Final[Refused] = {
    "add_generation_prompt": (),
    "chat_template_kwargs": (),
    "continue_final_message": (False,),
    "documents": (),
    "enable_thinking": (False,),
    "function_call": ("none", "auto"),
    "functions": (),
    "messages": (),
    "parallel_tool_calls": (True, False),
    "reasoning": (),
    "reasoning_budget": (-1,),
    "reasoning_budget_tokens": (-1,),
    "reasoning_effort": ("none",),
    "thinking": (False,),
    "thinking_budget": (-1,),
    "thinking_budget_tokens": (-1,),
    "thinking_token_budget": (-1,),
    "tool_choice": ("none", "auto"),
    "tools": (),
    "top_logprobs": (0,),
}
"""Fields of chats, which would change the reply to a chat. See `refuse_unsupported`."""


class CompletionBody(WritingFields, frozen=True, kw_only=True):
    """Every field that has an effect. `refused_parameters` has those that would need one and do not."""

    prompt: Annotated[msgspec.Raw, read_as(_Prompts)] = NOTHING
    best_of: Annotated[int, Meta(ge=1, le=128)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    add_special_tokens: Literal[True] | None = None


_decoder: Final = decoder_with_refused(CompletionBody, also=CHAT_FIELDS)
_prompts_decoder: Final = msgspec.json.Decoder(_Prompts)


SHAPES: Final = Shapes(
    summary="What follows a text, or each of several",
    request=CompletionBody,
    reply=Completion,
    event=Completion,
    last_data="[DONE]",
)


class CompletionRequest(Struct, frozen=True, kw_only=True):
    """A `neuron_lib.wire.dialect.DecodedRequest`: the task, and how the client wants the reply.

    `include_usage` asks for the usage of a stream in an event of its own, `continuous_usage` for the usage so far in
    every event.
    """

    task: Complete
    stream: bool
    include_usage: bool = False
    continuous_usage: bool = False

    def encoder(self, *, unique: str, created: int) -> CompletionStreamEncoder:
        """What writes the reply as a stream. The reply has the model's id as the client wrote it."""
        return CompletionStreamEncoder(
            id=f"cmpl-{unique}",
            created=created,
            model=self.task.model_id,
            choices=self.task.choices * len(self.task.prompts),
            include_usage=self.include_usage,
            continuous_usage=self.continuous_usage,
        )

    def collector(self, *, unique: str, created: int) -> CompletionCollector:
        """What writes the reply in one piece. The reply has the model's id as the client wrote it."""
        return CompletionCollector(id=f"cmpl-{unique}", created=created, model=self.task.model_id)


def decode(body: bytes, *, headers: Mapping[str, str], principal: Principal | None) -> CompletionRequest:
    """The request in `body`. `null` means the same as an absent field, and unknown fields are ignored.

    Raises what `decode_body` raises, also for values that are out of bounds.
    """
    call = decode_body(_decoder, body, content_type=headers.get("content-type"))
    refuse_unsupported(call, also=CHAT_FIELDS)
    options = stream_options_of(call)
    return CompletionRequest(
        task=task_of(call, principal=principal, max_tokens=max_tokens_of(call, absent=_MAX_TOKENS)),
        stream=bool(call.stream),
        include_usage=options.include_usage or False,
        continuous_usage=options.continuous_usage_stats or False,
    )


def task_of(call: CompletionBody, *, principal: Principal | None, max_tokens: int | None) -> Complete:
    """The task that a body asks for. Raises `MalformedJson` or `InvalidRequest`."""
    choices = call.n or 1
    if call.best_of not in {None, choices}:
        raise refusal("best_of", "no replies are compared here; `n` gives several replies")
    prompts = _prompts(call.prompt, choices=choices)
    return Complete(
        model_id=call.model,
        prompt=prompts[0],
        more_prompts=prompts[1:],
        suffix=call.suffix or None,
        echo=bool(call.echo),
        sampling=read_sampling(call),
        max_tokens=max_tokens,
        stop=stop_of(call),
        choices=choices,
        top_logprobs=call.logprobs,
        grammar=grammar_of(call),
        principal=principal,
        whole=not call.stream,
        keep_alive_s=read_keep_alive(call.keep_alive),
    )


def _prompts(text: msgspec.Raw, *, choices: int) -> tuple[str | tuple[int, ...], ...]:
    """The prompts in OpenAI's four shapes, at least one."""
    if not is_given(text):
        raise refusal("prompt", "this field is required")
    given = decode_part(_prompts_decoder, text, param="prompt")
    prompts = tuple(_each_prompt(given))
    if not prompts:
        raise refusal("prompt", "Expected `array` of length >= 1")
    if len(prompts) * choices > _MAX_REPLIES:
        raise refusal(
            "prompt", f"{len(prompts)} prompts with {choices} replies each; {_MAX_REPLIES} replies are possible"
        )
    return prompts


def _each_prompt(given: _Prompts) -> list[str | tuple[int, ...]]:
    if isinstance(given, str):
        return [given]
    kinds = {type(item) for item in given}
    if len(kinds) > 1:
        raise refusal("prompt", "texts, tokens and lists of tokens cannot be in one list")
    if kinds == {int}:
        return [tuple(token for token in given if isinstance(token, int))]
    return [item if isinstance(item, str) else tuple(item) for item in given if not isinstance(item, int)]
