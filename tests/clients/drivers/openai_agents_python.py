"""OpenAI's Agents SDK, through Responses (its default) and through chat completions."""

from typing import Any

import openai
import report as r
from agents import (
    Agent,
    MaxTurnsExceeded,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from pydantic import BaseModel

set_tracing_disabled(True)
CALLED: list[str] = []


class Weather(BaseModel):
    city: str
    degrees: int


@function_tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    CALLED.append(city)
    return "Sunny"


@function_tool
def other() -> str:
    """Another function."""
    return ""


def agent(kind: Any = OpenAIChatCompletionsModel, name: str = r.MODEL, **options: Any) -> Agent:
    client = openai.AsyncOpenAI(base_url=r.BASE, api_key=r.KEY, max_retries=0)
    settings = ModelSettings(**({"max_tokens": 200} | options.pop("settings", {})))
    return Agent(name="tester", model=kind(model=name, openai_client=client), model_settings=settings, **options)


async def run(made: Agent, text: str = r.SAY) -> Any:
    return (await Runner.run(made, text)).final_output


async def called(made: Agent, text: str, *, streamed: bool = False) -> list[str]:
    """The calls of one turn. The model of this test would call again without end."""
    CALLED.clear()
    try:
        if streamed:
            async for _ in Runner.run_streamed(made, text, max_turns=1).stream_events():
                pass
        else:
            await Runner.run(made, text, max_turns=1)
    except MaxTurnsExceeded:
        pass
    return sorted(CALLED)


async def said_in_stream(made: Agent, text: str = r.SAY) -> str:
    return "".join(
        [
            event.data.delta
            async for event in Runner.run_streamed(made, text).stream_events()
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
        ]
    )


def chat() -> None:
    assert Runner.run_sync(agent(), r.SAY).final_output == r.SAID


async def chat_async() -> None:
    assert await run(agent()) == r.SAID


async def chat_streamed() -> None:
    assert await said_in_stream(agent()) == r.SAID


async def tools_auto() -> None:
    assert await called(agent(tools=[get_weather]), r.CALL) == ["Paris"]


async def tools_streamed() -> None:
    assert await called(agent(tools=[get_weather]), r.TWO_CALLS, streamed=True) == ["Paris", "Rome"]


async def tools_required() -> None:
    assert await called(agent(tools=[get_weather], settings={"tool_choice": "required"}), "Hi")


async def tools_named() -> None:
    assert await called(agent(tools=[other, get_weather], settings={"tool_choice": "get_weather"}), "Hi")


async def tools_parallel() -> None:
    assert await called(agent(tools=[get_weather]), r.TWO_CALLS) == ["Paris", "Rome"]
    assert len(await called(agent(tools=[get_weather], settings={"parallel_tool_calls": False}), r.TWO_CALLS)) == 1


async def structured() -> None:
    assert await run(agent(output_type=Weather), r.OBJECT) == Weather(city="Paris", degrees=21)


async def structured_with_tools() -> None:
    both = agent(output_type=Weather, tools=[get_weather])
    assert await run(both, r.OBJECT) == Weather(city="Paris", degrees=21)
    assert await called(both, r.CALL) == ["Paris"]


async def reasoning() -> None:
    for kind in (OpenAIChatCompletionsModel, OpenAIResponsesModel):
        result = await Runner.run(agent(kind), r.THINK)
        assert [item.type for item in result.new_items] == ["reasoning_item", "message_output_item"], kind
        assert result.final_output == r.SAID


async def usage() -> None:
    result = await Runner.run(agent(), r.SAY)
    assert result.context_wrapper.usage.output_tokens > 0


async def errors() -> None:
    for made, text, wanted in (
        (agent(name="no/model"), "Hi", openai.NotFoundError),
        (agent(), r.LONG, openai.BadRequestError),
    ):
        try:
            await run(made, text)
        except wanted:
            pass
        else:
            raise AssertionError(f"no {wanted.__name__}")


async def responses() -> None:
    assert await run(agent(OpenAIResponsesModel)) == r.SAID
    assert await said_in_stream(agent(OpenAIResponsesModel)) == r.SAID
    assert await called(agent(OpenAIResponsesModel, tools=[get_weather]), r.TWO_CALLS, streamed=True) == [
        "Paris",
        "Rome",
    ]
    forced = agent(OpenAIResponsesModel, tools=[other, get_weather], settings={"tool_choice": "get_weather"})
    assert await called(forced, "Hi")
    both = agent(OpenAIResponsesModel, output_type=Weather, tools=[get_weather])
    assert await run(both, r.OBJECT) == Weather(city="Paris", degrees=21)


r.report(
    {
        "models": "it has no list of models",
        "chat": chat,
        "chat, streamed": chat_streamed,
        "chat, async": chat_async,
        "tools, auto": tools_auto,
        "tools, streamed": tools_streamed,
        "tools, required": tools_required,
        "tools, named": tools_named,
        "tools, parallel": tools_parallel,
        "structured": structured,
        "structured, with tools": structured_with_tools,
        "reasoning": reasoning,
        "usage": usage,
        "errors": errors,
        "stop, length": "it shows no reason for the end",
        "responses": responses,
    },
    rest="it does not speak it",
)
