"""What a chat request asks for, free of any wire format."""

from typing import Any

from msgspec import Struct

__all__ = ("ChatRequest", "Principal", "SamplingParams")


class SamplingParams(Struct, frozen=True, kw_only=True):
    """How to choose tokens. None means "not asked for": the model's own recommendation, then the default, decides.

    `temperature` ≤ 0 is greedy and overrides the rest. `repeat_last_n` is the window of all three penalties, in
    tokens; -1 is the whole context.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    repeat_last_n: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None


class Principal(Struct, frozen=True):
    """Who asks, as stamped by the gateway; None in a request means anonymous."""

    account_id: str
    key_id: str


class ChatRequest(Struct, frozen=True, kw_only=True):
    """One chat to be answered by one model.

    `messages` and `tools` go to the model's chat template as they are; every message has a string `role`, its
    `content` is a string, a list of parts, or None. `max_tokens` bounds the reply, None takes the service default.
    `template_kwargs` are merged into the template's context. With `include_thinking` the reasoning is part of the
    text, inside its literal markers.
    """

    model_id: str
    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()
    template_kwargs: dict[str, Any] = {}
    sampling: SamplingParams = SamplingParams()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    include_thinking: bool = False
    principal: Principal | None = None
