"""Reads how much a model is to reason, in the spellings of OpenAI, Anthropic, vLLM, llama.cpp and OpenRouter. Pure."""

from typing import Annotated, Final, NamedTuple, Protocol, TypeAlias

from msgspec import Meta, Struct

from neuron_lib.shown import clip
from neuron_lib.wire.json_bounds import refusal

__all__ = (
    "Budget",
    "Effort",
    "Reasoning",
    "ReasoningChoice",
    "ReasoningFields",
    "Thinking",
    "read_reasoning",
    "template_words",
)

Budget: TypeAlias = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
"""A number of tokens; -1 sets no bound."""
Effort: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]

_NO_EFFORT: Final = "none"
_THINKS: Final = {"adaptive": True, "auto": True, "disabled": False, "enabled": True}
"""The types of Anthropic's object, and whether the model may reason."""


class Thinking(Struct):
    """Anthropic's object, which DeepSeek and GLM also take."""

    type: str
    budget_tokens: Budget | None = None


class Reasoning(Struct):
    """OpenRouter's object. `effort` is also in OpenAI's Responses API."""

    effort: Effort | None = None
    max_tokens: Budget | None = None
    enabled: bool | None = None
    exclude: bool | None = None


class ReasoningFields(Protocol):
    """The fields of a body that say how much to reason."""

    @property
    def enable_thinking(self) -> bool | None: ...
    @property
    def reasoning_effort(self) -> Effort | None: ...
    @property
    def thinking(self) -> Thinking | bool | None: ...
    @property
    def reasoning(self) -> Reasoning | None: ...
    @property
    def thinking_budget_tokens(self) -> Budget | None: ...
    @property
    def reasoning_budget_tokens(self) -> Budget | None: ...
    @property
    def reasoning_budget(self) -> Budget | None: ...
    @property
    def thinking_token_budget(self) -> Budget | None: ...
    @property
    def thinking_budget(self) -> Budget | None: ...


class ReasoningChoice(NamedTuple):
    """`thinks` is whether the model is to reason, None where the request does not say so. `budget` is the most tokens
    of reasoning, None for no bound. `effort` is a word for the template.
    """

    thinks: bool | None = None
    budget: int | None = None
    effort: str | None = None


_BUDGETS: Final = (
    "thinking_budget_tokens",
    "reasoning_budget_tokens",
    "reasoning_budget",
    "thinking_token_budget",
    "thinking_budget",
)


def read_reasoning(fields: ReasoningFields) -> ReasoningChoice:
    """How much the model is to reason.

    A budget of 0 turns the reasoning off, and so does the effort "none". Another budget or effort turns it on. A field
    that only says whether to reason goes before both. Raises `InvalidRequest` for fields that contradict each other.
    """
    wanted = fields.reasoning or Reasoning()
    if wanted.exclude:
        raise refusal("reasoning.exclude", "this is not supported")
    budget = _budget(fields, wanted)
    effort = _agreed("reasoning.effort", wanted.effort, "reasoning_effort", fields.reasoning_effort)
    thinks = None
    if effort is not None:
        thinks = effort != _NO_EFFORT
    if budget is not None:
        thinks = budget > 0
    for said in (wanted.enabled, _thinks(fields), fields.enable_thinking):
        thinks = thinks if said is None else said
    return ReasoningChoice(thinks, budget, effort)


def template_words(choice: ReasoningChoice, *, default: bool) -> dict[str, object]:
    """The choice in each name that chat templates have for it. A request that makes no choice has the `default`."""
    words: dict[str, object] = {"enable_thinking": default}
    if choice.thinks is not None:
        mode = "enabled" if choice.thinks else "disabled"
        words |= {"enable_thinking": choice.thinks, "thinking": choice.thinks, "thinking_mode": mode}
    if choice.budget is not None:
        words["thinking_budget"] = choice.budget
    if choice.effort is not None:
        words["reasoning_effort"] = choice.effort
    return words


def _budget(fields: ReasoningFields, wanted: Reasoning) -> int | None:
    thinking = fields.thinking if isinstance(fields.thinking, Thinking) else None
    given: dict[str, int | None] = {name: getattr(fields, name) for name in _BUDGETS}
    given["thinking.budget_tokens"] = None if thinking is None else thinking.budget_tokens
    given["reasoning.max_tokens"] = wanted.max_tokens
    first: tuple[str, int] | None = None
    for name, budget in given.items():
        if budget is None:
            continue
        if first is not None and budget != first[1]:
            raise refusal(name, f"it contradicts `{first[0]}`")
        first = first or (name, budget)
    return None if first is None or first[1] < 0 else first[1]


def _agreed(name: str, value: str | None, other_name: str, other: str | None) -> str | None:
    if value is not None and other is not None and value != other:
        raise refusal(name, f"it contradicts `{other_name}`")
    return other if value is None else value


def _thinks(fields: ReasoningFields) -> bool | None:
    thinking = fields.thinking
    if not isinstance(thinking, Thinking):
        return thinking
    if thinking.type not in _THINKS:
        known = 'expected one of "enabled", "disabled", "adaptive" and "auto"'
        raise refusal("thinking.type", known, quoting=f"; it is {clip(thinking.type)!r}")
    return _THINKS[thinking.type]
