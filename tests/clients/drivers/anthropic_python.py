"""Anthropic's package for Python, synchronous and asynchronous."""

import json
from typing import Any

import anthropic
import report as r

client = anthropic.Anthropic(base_url=r.URL, api_key=r.KEY, max_retries=0)

TOOL: Any = {"name": "get_weather", "description": "The weather in a city.", "input_schema": r.PARAMETERS}


def ask(text: str, **options: Any) -> Any:
    asked: Any = [{"role": "user", "content": text}]
    return client.messages.create(**({"model": r.MODEL, "messages": asked, "max_tokens": 80} | options))


def calls_of(message: Any) -> list[tuple[str, Any]]:
    return [(block.name, block.input) for block in message.content if block.type == "tool_use"]


def models() -> None:
    assert r.MODEL in [model.id for model in client.models.list()]


def chat() -> None:
    reply = ask(r.SAY)
    assert [(block.type, block.text) for block in reply.content] == [("text", r.SAID)], reply
    assert reply.stop_reason == "end_turn"


def chat_streamed() -> None:
    with client.messages.stream(model=r.MODEL, messages=[{"role": "user", "content": r.SAY}], max_tokens=80) as stream:
        assert "".join(stream.text_stream) == r.SAID
        assert stream.get_final_message().stop_reason == "end_turn"


async def chat_async() -> None:
    later = anthropic.AsyncAnthropic(base_url=r.URL, api_key=r.KEY, max_retries=0)
    asked: Any = {"model": r.MODEL, "messages": [{"role": "user", "content": r.SAY}], "max_tokens": 80}
    async with later, later.messages.stream(**asked) as stream:
        assert await stream.get_final_text() == r.SAID


def tools_auto() -> None:
    asked: Any = {"role": "user", "content": r.CALL}
    reply = ask("", messages=[asked], tools=[TOOL])
    assert calls_of(reply) == [("get_weather", r.PARIS)], reply
    assert reply.stop_reason == "tool_use"
    (use,) = [block for block in reply.content if block.type == "tool_use"]
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "Sunny"}
    turns: Any = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": reply.content},
        {"role": "user", "content": [result]},
        {"role": "assistant", "content": "Sunny."},
        {"role": "user", "content": r.SAY},
    ]
    assert ask("", messages=turns, tools=[TOOL]).content[0].text == r.SAID


def tools_streamed() -> None:
    with client.messages.stream(
        model=r.MODEL, messages=[{"role": "user", "content": r.TWO_CALLS}], max_tokens=120, tools=[TOOL]
    ) as stream:
        assert [arguments["city"] for _, arguments in calls_of(stream.get_final_message())] == ["Paris", "Rome"]


def tools_required() -> None:
    reply = ask("Hi", tools=[TOOL], tool_choice={"type": "any", "disable_parallel_tool_use": True})
    assert [name for name, _ in calls_of(reply)] == ["get_weather"]


def tools_named() -> None:
    other = {"name": "other", "input_schema": {"type": "object"}}
    reply = ask("Hi", tools=[other, TOOL], tool_choice={"type": "tool", "name": "get_weather"})
    assert [name for name, _ in calls_of(reply)] == ["get_weather"]


def tools_parallel() -> None:
    assert len(calls_of(ask(r.TWO_CALLS, tools=[TOOL], max_tokens=120))) == 2
    one = ask(
        r.TWO_CALLS, tools=[TOOL], max_tokens=120, tool_choice={"type": "auto", "disable_parallel_tool_use": True}
    )
    assert len(calls_of(one)) == 1


FORMAT: Any = {"format": {"type": "json_schema", "schema": r.SCHEMA}}


def structured() -> None:
    reply = ask(r.OBJECT, output_config=FORMAT)
    assert json.loads(reply.content[0].text) == {"city": "Paris", "degrees": 21}


def structured_with_tools() -> None:
    assert json.loads(ask(r.OBJECT, output_config=FORMAT, tools=[TOOL]).content[0].text)["degrees"] == 21
    assert calls_of(ask(r.CALL, output_config=FORMAT, tools=[TOOL])) == [("get_weather", r.PARIS)]


def reasoning() -> None:
    reply = ask(r.THINK, thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=2048)
    assert [block.type for block in reply.content] == ["thinking", "text"], reply
    assert reply.content[0].thinking == r.THOUGHT


def usage() -> None:
    assert ask(r.SAY).usage.output_tokens > 0


def messages() -> None:
    usage = ask(r.SAY).usage
    counted = client.messages.count_tokens(model=r.MODEL, messages=[{"role": "user", "content": r.SAY}])
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def errors() -> None:
    assert r.raises(anthropic.NotFoundError, lambda: ask("Hi", model="no/model")).body["type"] == "error"
    r.raises(anthropic.BadRequestError, lambda: ask("Hi", max_tokens=-3))
    r.raises(anthropic.BadRequestError, lambda: ask(r.LONG))


def stop_and_length() -> None:
    stopped = ask(r.SAY, stop_sequences=["answer"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "answer")
    assert ask(r.SAY, max_tokens=2).stop_reason == "max_tokens"


r.report(
    {
        "models": models,
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
        "stop, length": stop_and_length,
        "chat": chat,
        "chat, streamed": chat_streamed,
        "chat, async": chat_async,
        "messages": messages,
    },
    rest="not in Anthropic's API",
)
