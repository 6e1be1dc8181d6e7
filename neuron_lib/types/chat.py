"""What a chat request asks for, free of any wire format."""

from typing import Any

from msgspec import Struct

__all__ = ("ChatRequest", "Principal", "Sampling", "SamplingParams")


class SamplingParams(Struct, frozen=True, kw_only=True):
    """How to choose tokens. None means "not asked for": the model's own recommendation, then the default, decides.

    `temperature` ≤ 0 is greedy: the highest score wins, after the penalties. `repeat_last_n` is the window of all
    three penalties, in tokens; -1 is the whole context.
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


class Sampling(Struct, frozen=True, kw_only=True):
    """How to choose tokens, with nothing left open. `top_k` 0, `top_p` 1, `min_p` 0, penalties 1 / 0 / 0 are off."""

    temperature: float
    seed: int
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repeat_last_n: int = 0

    @property
    def has_penalties(self) -> bool:
        """Whether earlier tokens change the scores."""
        return self.repeat_last_n != 0 and (
            self.repetition_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0
        )


class Principal(Struct, frozen=True):
    """Who asks, as stamped by the gateway; None in a request means anonymous."""

    account_id: str
    key_id: str


class ChatRequest(Struct, frozen=True, kw_only=True):
    """One chat to be answered by one model.

    `messages` and `tools` go to the model's chat template as they are; every message has a string `role`, its
    `content` is a string or None, or a list of parts for a model that sees images. `max_tokens` bounds the reply, None
    takes the service default. `template_kwargs` are merged into the template's context. With `include_thinking` the
    reasoning is part of the text, inside its literal markers.
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
