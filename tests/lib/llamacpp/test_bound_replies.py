"""Replies of the demo model that must call tools, may call them, reason within a budget, and continue a message."""

import json
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import pytest

from neuron_lib.errors import InvalidGrammar, InvalidRequest
from neuron_lib.llamacpp.loaded_model import LlamaCppModel
from neuron_lib.types import (
    ChatRequest,
    Finished,
    FinishReason,
    Grammar,
    ReasoningDelta,
    SamplingParams,
    TextDelta,
    ToolCall,
    ToolChoice,
)
from tests.fakes.scripted_model import write_scripted_model
from tests.lib.llamacpp.test_real_engine import MODEL_ID, real_model

pytestmark = [pytest.mark.anyio, pytest.mark.model]

TEMPLATE: Final = """{%- if tools -%}
<|im_start|>system
Call functions like this: <tool_call>
{"name": "f", "arguments": {}}
</tool_call>
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif -%}
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>
{% endif %}{{ message.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% if enable_thinking %}<think>
{% endif %}{% endif -%}
"""
"""Shows tools as Hermes does, with markers that are no tokens of the demo's vocabulary."""

GREEDY: Final = SamplingParams(temperature=0)
LIKELIEST: Final = SamplingParams(temperature=0, repetition_penalty=1.0)
HOT: Final = SamplingParams(temperature=1.5, seed=7)
PARIS: Final = ({"role": "user", "content": "What is the weather in Paris?"},)
THINKING: Final = {"enable_thinking": True}
WEATHER: Final = {"city": {"enum": ["Paris", "Rome"]}, "unit": {"enum": ["C", "F"]}}
TIME: Final = {"zone": {"type": "integer", "minimum": -12, "maximum": 12}}


def tool(name: str, properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "parameters": parameters, **more}}


EARLIER: Final = (
    {"role": "user", "content": "What is the weather in Rome?"},
    {
        "role": "assistant",
        "content": '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome", "unit": "K"}}\n</tool_call>',
    },
    *PARIS,
)
"""A turn that a model without penalties repeats, although its arguments do not fit."""
TOOLS: Final = (tool("get_weather", WEATHER), tool("get_time", TIME))


class Reply:
    """The choices of one reply."""

    def __init__(self) -> None:
        self.text: dict[int, str] = defaultdict(str)
        self.reasoning: dict[int, str] = defaultdict(str)
        self.calls: dict[int, list[tuple[str, Any]]] = defaultdict(list)
        self.finished: Finished | None = None

    @property
    def reasons(self) -> tuple[FinishReason, ...]:
        assert self.finished is not None
        return self.finished.reasons

    @property
    def tokens(self) -> int:
        assert self.finished is not None
        return self.finished.usage.completion_tokens


async def reply(model: LlamaCppModel, **fields: Any) -> Reply:
    wanted = {"messages": PARIS, "sampling": GREEDY, "max_tokens": 150, **fields}
    got = Reply()
    async with model.run(ChatRequest(model_id=MODEL_ID, **wanted)) as events:
        async for event in events:
            match event:
                case TextDelta():
                    got.text[event.choice] += event.text
                case ReasoningDelta():
                    got.reasoning[event.choice] += event.text
                case ToolCall():
                    got.calls[event.choice].append((event.name, json.loads(event.arguments)))
                case Finished():
                    got.finished = event
    return got


def fits(call: tuple[str, Any]) -> bool:
    match call:
        case ("get_weather", {"city": "Paris" | "Rome", "unit": "C" | "F", **rest}):
            return not rest
        case ("get_time", {"zone": int(), **rest}):
            return not rest
        case _:
            return False


@asynccontextmanager
async def demo(path: Path, **changes: Any) -> AsyncIterator[LlamaCppModel]:
    async with real_model(path, **{"chat_template": TEMPLATE, **changes}) as (model, _):
        yield model


async def test_a_model_that_must_call_calls_validly(smollm2_path: Path) -> None:
    async with demo(smollm2_path) as model:
        for sampling in (GREEDY, HOT):
            one = await reply(model, tools=TOOLS, tool_choice=ToolChoice("required", parallel=False), sampling=sampling)
            assert [fits(call) for call in one.calls[0]] == [True]
            assert (one.text[0], one.reasons) == ("", (FinishReason.TOOL_CALLS,))
            named = await reply(model, tools=TOOLS, tool_choice=ToolChoice("required", "get_time"), sampling=sampling)
            ((name, arguments),) = named.calls[0]
            assert (name, set(arguments)) == ("get_time", {"zone"})


async def test_every_choice_of_a_reply_that_must_call_calls(smollm2_path: Path) -> None:
    async with demo(smollm2_path) as model:
        many = await reply(
            model, tools=TOOLS, tool_choice=ToolChoice("required"), sampling=HOT, choices=3, max_tokens=400
        )
    assert [bool(many.calls[choice]) for choice in range(3)] == [True] * 3
    assert all(fits(call) for calls in many.calls.values() for call in calls)
    assert not "".join(many.text.values())


@pytest.mark.parametrize("parallel", [True, False])
async def test_a_reply_that_may_call_is_bound_from_the_opening_of_a_call_on(
    smollm2_path: Path,
    parallel: bool,  # noqa: FBT001 - a parameter
) -> None:
    async with demo(smollm2_path) as model:
        free = await reply(
            model, messages=EARLIER, tools=TOOLS, tool_choice=ToolChoice(parallel=parallel), sampling=LIKELIEST
        )
        unbound = await reply(model, messages=EARLIER, sampling=LIKELIEST)
    assert '"unit": "K"' in unbound.text[0]  # what the model writes if nothing binds it
    assert free.calls[0]
    assert all(fits(call) for call in free.calls[0])
    assert "tool_call" not in free.text[0]
    assert parallel or len(free.calls[0]) == 1


async def test_a_call_that_is_cut_leaves_nothing_behind(smollm2_path: Path) -> None:
    async with demo(smollm2_path) as model:
        for most in (1, 4, 9, 14, 20):
            cut = await reply(model, tools=TOOLS, tool_choice=ToolChoice("required"), max_tokens=most)
            assert (cut.text[0], cut.calls[0], cut.reasons) == ("", [], (FinishReason.LENGTH,))


async def test_with_an_answer_of_a_shape_the_reply_calls_or_has_the_shape(smollm2_path: Path) -> None:
    yes_or_no = Grammar(
        "json_schema",
        '{"type": "object", "properties": {"is_fine": {"type": "boolean"}}, '
        '"required": ["is_fine"], "additionalProperties": false}',
    )
    async with demo(smollm2_path) as model:
        for sampling in (GREEDY, HOT):
            either = await reply(
                model, tools=TOOLS, tool_choice=ToolChoice(parallel=False), grammar=yes_or_no, sampling=sampling
            )
            if either.calls[0]:
                assert fits(either.calls[0][0])
            else:
                assert isinstance(json.loads(either.text[0])["is_fine"], bool)
        begun = (*PARIS, {"role": "assistant", "content": '{"is_'})
        answer = await reply(model, messages=begun, tools=TOOLS, grammar=yes_or_no)
        assert answer.text[0] in {'fine": true}', 'fine": false}'}


async def test_reasoning_ends_with_its_budget_and_comes_before_a_call(smollm2_path: Path) -> None:
    async with demo(smollm2_path) as model:
        for budget in (0, 3):
            bound = await reply(
                model,
                tools=TOOLS,
                tool_choice=ToolChoice("required", parallel=False),
                template_kwargs=THINKING,
                reasoning_budget=budget,
            )
            assert bool(bound.reasoning[0]) is bool(budget)
            assert "</" not in bound.reasoning[0]
            assert fits(bound.calls[0][0])
            assert not bound.text[0]
        free = await reply(model, template_kwargs=THINKING, reasoning_budget=3, max_tokens=20)
        assert len(free.reasoning[0].split()) <= 3
        assert "think>" not in free.text[0] + free.reasoning[0]


async def test_a_last_message_of_the_assistant_is_continued(smollm2_path: Path) -> None:
    asked = {"role": "user", "content": "What is the capital of France?"}
    async with demo(smollm2_path) as model:
        text = await reply(
            model, messages=(asked, {"role": "assistant", "content": "The capital of France is the city of"})
        )
        assert text.text[0].startswith(" Paris")
        thought = {"role": "assistant", "content": None, "reasoning_content": "The capital of France is the city of"}
        thinking = await reply(model, messages=(asked, thought), reasoning_budget=2, max_tokens=12)
        assert thinking.reasoning[0].startswith(" Paris")
        assert "think>" not in thinking.text[0]


async def test_what_cannot_be_bound_is_refused_with_its_field(smollm2_path: Path) -> None:
    strange = tool("f", {"a": {"type": "string", "format": "banana"}})
    strict = tool("f", {"a": {"type": "string", "format": "banana"}}, strict=True)
    async with demo(smollm2_path) as model:
        with pytest.raises(InvalidRequest) as missing:
            await reply(model, tools=TOOLS, tool_choice=ToolChoice("required", "other"))
        assert missing.value.param == "tool_choice"
        with pytest.raises(InvalidGrammar) as unknown:
            await reply(model, tools=(*TOOLS, strict))
        assert unknown.value.param == "tools[2].function.parameters"
        loose = await reply(model, tools=(strange,), tool_choice=ToolChoice("required", parallel=False))
        assert [name for name, _ in loose.calls[0]] == ["f"]


async def test_guessed_tokens_are_bound_like_others(smollm2_path: Path) -> None:
    calls = []
    for speculation in ("off", "on"):
        async with demo(smollm2_path, speculation=speculation) as model:
            several = await reply(
                model, messages=EARLIER, tools=TOOLS, tool_choice=ToolChoice("required"), sampling=LIKELIEST
            )
            assert several.calls[0]
            assert all(fits(call) for call in several.calls[0])
            calls.append(several.calls[0])
    assert calls[0] == calls[1]


async def test_replies_that_lose_their_cells_stay_bound(smollm2_path: Path) -> None:
    got: dict[int, Reply] = {}

    async def one(model: LlamaCppModel, number: int) -> None:
        asked = {"role": "user", "content": f"What is the weather in Paris, please? I asked {number} times."}
        got[number] = await reply(
            model,
            messages=(asked,),
            tools=TOOLS,
            tool_choice=ToolChoice("required"),
            sampling=SamplingParams(temperature=1.0, seed=number),
            max_tokens=100,
            top_logprobs=1,
        )

    async with (
        demo(smollm2_path, kv_layout="unified", kv_cells=768, n_ctx=768) as model,
        anyio.create_task_group() as group,
    ):
        for number in range(4):  # each needs about 250 cells
            group.start_soon(one, model, number)
    assert set(got) == set(range(4))
    for each in got.values():
        assert all(fits(call) for call in each.calls[0])
        assert not each.text[0]
        assert each.calls[0] or each.reasons == (FinishReason.LENGTH,)


# ----------------------------------------------------------------- with a model whose vocabulary has tokens for markers


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory, process: None) -> Path:
    return write_scripted_model(tmp_path_factory.mktemp("scripted") / "scripted.gguf")


async def echo(model: LlamaCppModel, text: str, **fields: Any) -> Reply:
    """The reply of a model that would write `text` if nothing bound it."""
    return await reply(model, messages=({"role": "user", "content": f"ECHO {text}"},), sampling=LIKELIEST, **fields)


CALL_TEXT: Final = '[TC]\n{"name": "get_weather", "arguments": {"city": "Rome", "unit": "%s"}}\n[/TC]'


async def test_a_token_that_opens_a_call_binds_what_follows(scripted: Path) -> None:
    async with real_model(scripted) as (model, _):
        right = await echo(model, f"I will look.\n{CALL_TEXT % 'C'}", tools=TOOLS)
        assert right.calls[0] == [("get_weather", {"city": "Rome", "unit": "C"})]
        wrong = await echo(model, f"I will look.\n{CALL_TEXT % 'K'}", tools=TOOLS)
        (call,) = wrong.calls[0]
        assert fits(call)
        assert wrong.text[0].strip() == right.text[0].strip() == "I will look."


async def test_several_calls_come_unless_one_is_allowed(scripted: Path) -> None:
    two = f"{CALL_TEXT % 'C'}\n{CALL_TEXT % 'F'}"
    async with real_model(scripted) as (model, _):
        both = await echo(model, two, tools=TOOLS)
        assert [call["unit"] for _, call in both.calls[0]] == ["C", "F"]
        one = await echo(model, two, tools=TOOLS, tool_choice=ToolChoice(parallel=False))
        assert [call["unit"] for _, call in one.calls[0]] == ["C"]
        assert one.reasons == (FinishReason.TOOL_CALLS,)
        assert one.tokens < both.tokens


async def test_a_budget_is_kept_to_the_token(scripted: Path) -> None:
    thought = "[TH]One, two, three, four, five, six, seven.[/TH]The answer is 4."
    async with real_model(scripted) as (model, _):
        free = await echo(model, thought)
        assert free.reasoning[0] == "One, two, three, four, five, six, seven."
        for budget in (0, 1, 5):
            bound = await echo(model, thought, reasoning_budget=budget)
            assert bound.finished is not None
            assert bound.finished.usage.reasoning_tokens in {budget, budget + 1}  # with the opening marker
            assert free.reasoning[0].startswith(bound.reasoning[0])
            assert "think>" not in bound.text[0]
        required = await echo(
            model, f"[TH]One, two.[/TH]{CALL_TEXT % 'C'}", tools=TOOLS, tool_choice=ToolChoice("required")
        )
        assert (required.reasoning[0], required.text[0]) == ("One, two.", "")
        assert fits(required.calls[0][0])


async def test_a_call_whose_marker_alone_fits_is_no_text(scripted: Path) -> None:
    async with real_model(scripted) as (model, _):
        for most in (1, 2, 8):
            cut = await echo(model, CALL_TEXT % "C", tools=TOOLS, max_tokens=most)
            assert (cut.text[0], cut.calls[0], cut.reasons) == ("", [], (FinishReason.LENGTH,))
