"""Hugging Face's InferenceClient, synchronous and asynchronous."""

import json
from typing import Any

import report as r
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError

client = InferenceClient(base_url=r.BASE, api_key=r.KEY)
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "weather", "schema": r.SCHEMA, "strict": True}}


def asked(text: str, **options: Any) -> Any:
    return {"messages": [{"role": "user", "content": text}], "model": r.MODEL, "max_tokens": 120} | options


def ask(text: str, **options: Any) -> Any:
    return client.chat_completion(**asked(text, **options))


def calls_of(message: Any) -> list[tuple[str, Any]]:
    calls = message.tool_calls or []
    return [(call.function.name, json.loads(call.function.arguments)) for call in calls]


def chat() -> None:
    choice = ask(r.SAY).choices[0]
    assert (choice.message.content, choice.finish_reason) == (r.SAID, "stop")
    assert ask(r.SAY, model=None).choices[0].message.content == r.SAID, "without a model's name, by `model_aliases`"


def chat_streamed() -> None:
    assert "".join(chunk.choices[0].delta.content or "" for chunk in ask(r.SAY, stream=True)) == r.SAID


async def chat_async() -> None:
    async with AsyncInferenceClient(base_url=r.BASE, api_key=r.KEY) as later:
        assert (await later.chat_completion(**asked(r.SAY))).choices[0].message.content == r.SAID
        stream: Any = await later.chat_completion(**asked(r.SAY, stream=True))
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == r.SAID


def tools_auto() -> None:
    message = ask(r.CALL, tools=[r.TOOL]).choices[0].message
    assert calls_of(message) == [("get_weather", r.PARIS)]
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "Sunny"}
    turns = [{"role": "user", "content": "Weather?"}, message, result, {"role": "user", "content": r.SAY}]
    assert ask("", messages=turns, tools=[r.TOOL]).choices[0].message.content == r.SAID


def tools_streamed() -> None:
    names, given = [], ""
    for chunk in ask(r.CALL, tools=[r.TOOL], stream=True):
        for call in chunk.choices[0].delta.tool_calls or []:
            names += [call.function.name] if call.function.name else []
            given += call.function.arguments or ""
    assert (names, json.loads(given)) == (["get_weather"], r.PARIS)


def tools_required() -> None:
    assert calls_of(ask("Hi", tools=[r.TOOL], tool_choice="required").choices[0].message)


def tools_named() -> None:
    other = {"type": "function", "function": {"name": "other", "parameters": {"type": "object"}}}
    named = {"type": "function", "function": {"name": "get_weather"}}
    assert calls_of(ask("Hi", tools=[other, r.TOOL], tool_choice=named).choices[0].message)[0][0] == "get_weather"


def tools_parallel() -> None:
    assert len(calls_of(ask(r.TWO_CALLS, tools=[r.TOOL]).choices[0].message)) == 2
    one = ask(r.TWO_CALLS, tools=[r.TOOL], extra_body={"parallel_tool_calls": False}).choices[0].message
    assert len(calls_of(one)) == 1


def structured() -> None:
    for shape in (FORMAT, {"type": "json", "value": r.SCHEMA}):
        assert json.loads(ask(r.OBJECT, response_format=shape).choices[0].message.content)["degrees"] == 21, shape


def structured_with_tools() -> None:
    options: Any = {"tools": [r.TOOL], "response_format": FORMAT}
    assert json.loads(ask(r.OBJECT, **options).choices[0].message.content)["degrees"] == 21
    assert calls_of(ask(r.CALL, **options).choices[0].message) == [("get_weather", r.PARIS)]


def reasoning() -> None:
    message = ask(r.THINK).choices[0].message
    assert (message.reasoning_content, message.content) == (r.THOUGHT, r.SAID), message
    deltas = [chunk.choices[0].delta for chunk in ask(r.THINK, stream=True)]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == r.THOUGHT


def usage() -> None:
    assert ask(r.SAY).usage.completion_tokens > 0
    *_, last = ask(r.SAY, stream=True, stream_options={"include_usage": True})
    assert last.usage.total_tokens > 0


def errors() -> None:
    for status, text, options in (
        (404, "Hi", {"model": "no/model"}),
        (400, "Hi", {"top_p": "warm"}),
        (400, r.LONG, {}),
    ):
        error = r.raises(HfHubHTTPError, lambda: ask(text, **options))  # noqa: B023 - called at once
        assert error.response.status_code == status


def stop_and_length() -> None:
    assert ask(r.SAY, stop=["answer"]).choices[0].message.content == "The "
    assert ask(r.SAY, max_tokens=2).choices[0].finish_reason == "length"


r.report(
    {
        "models": "it lists models of the hub",
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
        "stop, length": stop_and_length,
        "embeddings": "its `feature_extraction` speaks the hub's own API",
        "completions": "its `text_generation` speaks the hub's own API",
    },
    rest="it does not speak it",
)
