"""LangChain's package for Anthropic, synchronous and asynchronous."""

from typing import Any

import anthropic
import report as r
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_parts import Weather, cities, get_weather, whole


def model(**options: Any) -> ChatAnthropic:
    common: Any = {"model": r.MODEL, "base_url": r.URL, "api_key": r.KEY, "max_retries": 0, "max_tokens": 120}
    return ChatAnthropic(**(common | options))


def chat() -> None:
    reply = model().invoke(r.SAY)
    assert (reply.text, reply.response_metadata["stop_reason"]) == (r.SAID, "end_turn")


def chat_streamed() -> None:
    assert whole(model().stream(r.SAY)).text == r.SAID


async def chat_async() -> None:
    assert (await model().ainvoke(r.SAY)).text == r.SAID
    assert "".join([chunk.text async for chunk in model().astream(r.SAY)]) == r.SAID


def tools_auto() -> None:
    bound = model().bind_tools([get_weather])
    reply = bound.invoke(r.CALL)
    assert cities(reply) == ["Paris"]
    result = ToolMessage("Sunny", tool_call_id=reply.tool_calls[0]["id"])
    assert bound.invoke([HumanMessage("Weather?"), reply, result, HumanMessage(r.SAY)]).text == r.SAID


def tools_streamed() -> None:
    assert cities(whole(model().bind_tools([get_weather]).stream(r.TWO_CALLS))) == ["Paris", "Rome"]


def tools_required() -> None:
    assert (
        len(cities(model().bind_tools([get_weather], tool_choice="any", parallel_tool_calls=False).invoke("Hi"))) == 1
    )


def tools_named() -> None:
    assert cities(model().bind_tools([get_weather], tool_choice="get_weather").invoke("Hi"))


def tools_parallel() -> None:
    assert len(cities(model().bind_tools([get_weather]).invoke(r.TWO_CALLS))) == 2
    assert len(cities(model().bind_tools([get_weather], parallel_tool_calls=False).invoke(r.TWO_CALLS))) == 1


def structured() -> None:
    for method, text in (("json_schema", r.OBJECT), ("function_calling", "Weather?")):
        shaped: Any = model().with_structured_output(Weather, method=method)
        assert isinstance(shaped.invoke(text), Weather), method


def reasoning() -> None:
    thinker = model(thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=2048)
    for reply in (thinker.invoke(r.THINK), whole(thinker.stream(r.THINK))):
        thoughts = [block["thinking"] for block in reply.content if block["type"] == "thinking"]
        assert (thoughts, reply.text) == ([r.THOUGHT], r.SAID)


def usage() -> None:
    for reply in (model().invoke(r.SAY), whole(model().stream(r.SAY))):
        assert (reply.usage_metadata or {})["output_tokens"] > 0


def errors() -> None:
    r.raises(anthropic.NotFoundError, lambda: model(model="no/model").invoke("Hi"))
    r.raises(anthropic.BadRequestError, lambda: model(max_tokens=-3).invoke("Hi"))
    r.raises(anthropic.BadRequestError, lambda: model().invoke(r.LONG))


def stop_and_length() -> None:
    assert model().invoke(r.SAY, stop=["answer"]).response_metadata["stop_reason"] == "stop_sequence"
    assert model(max_tokens=2).invoke(r.SAY).response_metadata["stop_reason"] == "max_tokens"


def messages() -> None:
    assert model().get_num_tokens_from_messages([HumanMessage(r.SAY)]) > 0


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
        "structured, with tools": "its structured output takes no further tools",
        "reasoning": reasoning,
        "usage": usage,
        "errors": errors,
        "stop, length": stop_and_length,
        "messages": messages,
    },
    rest="not in Anthropic's API",
)
