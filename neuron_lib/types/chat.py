"""What a chat request asks for, free of any wire format."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from neuron_lib.types.sampling import SamplingParams

__all__ = ("ChatRequest", "Grammar", "Principal")


class Grammar(Struct, frozen=True):
    """What the text of a reply must look like: a JSON schema, a regular expression, or a grammar in Lark's notation.

    `param` is what the client calls it, for errors; None stands for the usual name of its kind.
    """

    kind: Literal["json_schema", "regex", "lark"]
    source: str
    param: str | None = None


class Principal(Struct, frozen=True):
    """Who asks, as stamped by the gateway; None in a request means anonymous."""

    account_id: str
    key_id: str


class ChatRequest(Struct, frozen=True, kw_only=True):
    """One chat to be answered by one model.

    `messages` and `tools` go to the model's chat template. Every message has a string `role`; its `content` is a
    string, None, or a list of parts, which are objects with a string `type`. Both may be an `UnreadArray`, and
    `template_kwargs`, which are merged into the template's context, an `UnreadObject`: JSON text that the engine
    decodes. `max_tokens` bounds the reply, None takes the service default. With `include_thinking` the
    reasoning is part of the text, inside its literal markers. `choices` replies are made of one prompt, each with a
    seed of its own. `top_logprobs` asks for the log-probability of every token and of that many likeliest alternatives.
    With `whole` nothing is given out before the end, so that until then the reply can be made again by another engine.
    """

    model_id: str
    messages: Sequence[dict[str, Any]]
    tools: Sequence[dict[str, Any]] = ()
    template_kwargs: Mapping[str, Any] = {}
    sampling: SamplingParams = SamplingParams()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    include_thinking: bool = False
    choices: int = 1
    top_logprobs: int | None = None
    grammar: Grammar | None = None
    principal: Principal | None = None
    whole: bool = False
