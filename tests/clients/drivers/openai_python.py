"""OpenAI's package for Python, synchronous and asynchronous."""

import json
from typing import Any

import openai
import report as r
from pydantic import BaseModel

client = openai.OpenAI(base_url=r.BASE, api_key=r.KEY, max_retries=0)


def later() -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=r.BASE, api_key=r.KEY, max_retries=0)


class Weather(BaseModel):
    city: str
    degrees: int


def ask(text: str, **options: Any) -> Any:
    asked: Any = {"model": r.MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 80}
    return client.chat.completions.create(**(asked | options))


def models() -> None:
    assert r.MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(r.MODEL).id == r.MODEL


def chat() -> None:
    reply = ask(r.SAY)
    assert reply.choices[0].message.content == r.SAID, reply
    assert reply.choices[0].finish_reason == "stop"


def chat_streamed() -> None:
    chunks = list(ask(r.SAY, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == r.SAID
    assert chunks[-1].choices[0].finish_reason == "stop"


async def chat_async() -> None:
    async with later() as asynchronous:
        messages: Any = [{"role": "user", "content": r.SAY}]
        reply = await asynchronous.chat.completions.create(model=r.MODEL, messages=messages)
        assert reply.choices[0].message.content == r.SAID
        stream = await asynchronous.chat.completions.create(model=r.MODEL, messages=messages, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == r.SAID


def calls_of(reply: Any) -> list[tuple[str, Any]]:
    calls = reply.choices[0].message.tool_calls or []
    return [(call.function.name, json.loads(call.function.arguments)) for call in calls]


def tools_auto() -> None:
    reply = ask(r.CALL, tools=[r.TOOL])
    assert calls_of(reply) == [("get_weather", r.PARIS)], reply
    assert reply.choices[0].finish_reason == "tool_calls"
    call = reply.choices[0].message
    result = {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": "Sunny"}
    messages: Any = [{"role": "user", "content": "Weather?"}, call, result, {"role": "user", "content": r.SAY}]
    again = client.chat.completions.create(model=r.MODEL, messages=messages, tools=[r.TOOL], max_tokens=80)
    assert again.choices[0].message.content == r.SAID


def tools_streamed() -> None:
    with client.chat.completions.stream(
        model=r.MODEL, messages=[{"role": "user", "content": r.TWO_CALLS}], tools=[r.TOOL], max_tokens=120
    ) as stream:
        reply = stream.get_final_completion()
    assert calls_of(reply) == [("get_weather", {"city": city}) for city in ("Paris", "Rome")], reply


def tools_required() -> None:
    for text in (r.SAY, "Hi"):
        (call,) = calls_of(ask(text, tools=[r.TOOL], tool_choice="required", parallel_tool_calls=False))
        assert call[0] == "get_weather"
        assert list(call[1]) == ["city"]


def tools_named() -> None:
    other = {"type": "function", "function": {"name": "other", "parameters": {"type": "object"}}}
    named = {"type": "function", "function": {"name": "get_weather"}}
    (call,) = calls_of(ask("Hi", tools=[other, r.TOOL], tool_choice=named, parallel_tool_calls=False))
    assert call[0] == "get_weather"


def tools_parallel() -> None:
    assert len(calls_of(ask(r.TWO_CALLS, tools=[r.TOOL], max_tokens=120))) == 2
    assert len(calls_of(ask(r.TWO_CALLS, tools=[r.TOOL], parallel_tool_calls=False, max_tokens=120))) == 1


def structured() -> None:
    parsed = client.chat.completions.parse(
        model=r.MODEL, messages=[{"role": "user", "content": "Weather?"}], response_format=Weather, max_tokens=200
    )
    assert isinstance(parsed.choices[0].message.parsed, Weather)


def structured_with_tools() -> None:
    named = {"name": "weather", "schema": r.SCHEMA, "strict": True}
    options: Any = {"tools": [r.TOOL], "response_format": {"type": "json_schema", "json_schema": named}}
    assert json.loads(ask(r.OBJECT, **options).choices[0].message.content) == {"city": "Paris", "degrees": 21}
    assert calls_of(ask(r.CALL, **options)) == [("get_weather", r.PARIS)]


def reasoning() -> None:
    message = ask(r.THINK).choices[0].message
    assert (message.reasoning_content, message.content) == (r.THOUGHT, r.SAID)
    deltas = [chunk.choices[0].delta for chunk in ask(r.THINK, stream=True)]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == r.THOUGHT


def usage() -> None:
    assert ask(r.SAY).usage.completion_tokens > 0
    *_, last = ask(r.SAY, stream=True, stream_options={"include_usage": True})
    assert last.usage.total_tokens > 0


def errors() -> None:
    r.raises(openai.NotFoundError, lambda: ask("Hi", model="no/model"))
    r.raises(openai.BadRequestError, lambda: ask("Hi", temperature="warm"))
    assert r.raises(openai.BadRequestError, lambda: ask(r.LONG)).code == "context_length_exceeded"


def stop_and_length() -> None:
    assert ask(r.SAY, stop=["answer"]).choices[0].message.content == "The "
    assert ask(r.SAY, max_tokens=2).choices[0].finish_reason == "length"


def embeddings() -> None:
    reply = client.embeddings.create(model=r.EMBEDDER, input=["one", "two"])
    assert [len(item.embedding) for item in reply.data] == [384, 384]


def completions() -> None:
    reply = client.completions.create(model=r.MODEL, prompt=["Once", "Twice"], max_tokens=4)
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert list(client.completions.create(model=r.MODEL, prompt="Once", max_tokens=4, stream=True))


def responses() -> None:
    reply = client.responses.create(model=r.MODEL, input=r.SAY)
    assert (reply.output_text, reply.status) == (r.SAID, "completed")
    with client.responses.stream(model=r.MODEL, input=r.SAY) as stream:
        assert "".join(event.delta for event in stream if event.type == "response.output_text.delta") == r.SAID
    flat: Any = {"type": "function", "strict": True, **r.TOOL["function"]}
    reply = client.responses.create(model=r.MODEL, input=r.CALL, tools=[flat], max_output_tokens=80)
    (call,) = [item for item in reply.output if item.type == "function_call"]
    assert json.loads(call.arguments) == r.PARIS
    forced = client.responses.create(
        model=r.MODEL, input="Hi", tools=[flat], tool_choice="required", max_output_tokens=80
    )
    assert any(item.type == "function_call" for item in forced.output)


r.report(
    {
        "models": models,
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
        "embeddings": embeddings,
        "completions": completions,
        "responses": responses,
    },
    rest="OpenAI's clients do not speak it",
)
