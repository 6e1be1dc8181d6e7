import json
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from neuron_lib.errors import InvalidRequest
from neuron_lib.wire.reasoning_fields import Budget, Effort, Reasoning, ReasoningChoice, Thinking, read_reasoning


class Fields(Struct, frozen=True, kw_only=True):
    enable_thinking: bool | None = None
    reasoning_effort: Effort | None = None
    thinking: Thinking | bool | None = None
    reasoning: Reasoning | None = None
    thinking_budget_tokens: Budget | None = None
    reasoning_budget_tokens: Budget | None = None
    reasoning_budget: Budget | None = None
    thinking_token_budget: Budget | None = None
    thinking_budget: Budget | None = None


def read(**fields: Any) -> ReasoningChoice:
    return read_reasoning(msgspec.json.decode(json.dumps(fields).encode(), type=Fields))


def test_a_request_that_says_nothing_leaves_everything_open() -> None:
    assert read() == ReasoningChoice()


@pytest.mark.parametrize(
    "field",
    [
        "thinking_budget_tokens",
        "reasoning_budget_tokens",
        "reasoning_budget",
        "thinking_token_budget",
        "thinking_budget",
    ],
)
def test_a_budget_has_a_name_in_each_server(field: str) -> None:
    assert read(**{field: 7}) == ReasoningChoice(thinks=True, budget=7)
    assert read(**{field: 0}) == ReasoningChoice(thinks=False, budget=0)
    assert read(**{field: -1}).budget is None


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, ReasoningChoice(thinks=True, budget=1024)),
        ({"thinking": {"type": "enabled"}}, ReasoningChoice(thinks=True)),
        ({"thinking": {"type": "adaptive"}}, ReasoningChoice(thinks=True)),
        ({"thinking": {"type": "disabled"}}, ReasoningChoice(thinks=False)),
        ({"thinking": False}, ReasoningChoice(thinks=False)),
        ({"reasoning": {"effort": "high", "summary": "auto"}}, ReasoningChoice(thinks=True, effort="high")),
        ({"reasoning": {"max_tokens": 5}}, ReasoningChoice(thinks=True, budget=5)),
        ({"reasoning": {"enabled": True}}, ReasoningChoice(thinks=True)),
        ({"reasoning_effort": "minimal"}, ReasoningChoice(thinks=True, effort="minimal")),
        ({"reasoning_effort": "none"}, ReasoningChoice(thinks=False, effort="none")),
        ({"enable_thinking": False, "reasoning_effort": "high"}, ReasoningChoice(thinks=False, effort="high")),
        ({"enable_thinking": True, "thinking_budget_tokens": 0}, ReasoningChoice(thinks=True, budget=0)),
        ({"reasoning_budget": 3, "thinking_budget_tokens": 3}, ReasoningChoice(thinks=True, budget=3)),
    ],
)
def test_each_spelling_means_what_its_server_says(fields: dict[str, Any], wanted: ReasoningChoice) -> None:
    assert read(**fields) == wanted


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning_budget": 3, "thinking_budget_tokens": 4}, "reasoning_budget"),
        ({"thinking_budget_tokens": 4, "thinking": {"type": "enabled", "budget_tokens": 5}}, "thinking.budget_tokens"),
        ({"reasoning": {"effort": "low"}, "reasoning_effort": "high"}, "reasoning.effort"),
        ({"reasoning": {"exclude": True}}, "reasoning.exclude"),
        ({"thinking": {"type": "banana"}}, "thinking.type"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_its_place(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(**fields)
    assert caught.value.param == param
