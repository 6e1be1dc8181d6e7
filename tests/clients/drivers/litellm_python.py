"""LiteLLM, synchronous and asynchronous."""

import json
from typing import Any

import litellm
import report as r

litellm.suppress_debug_info = True
COMMON: Any = {"api_base": r.BASE, "api_key": r.KEY, "max_tokens": 120, "max_retries": 0}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "weather", "schema": r.SCHEMA, "strict": True}}


def asked(text: str, **options: Any) -> Any:
    model = f"hosted_vllm/{r.MODEL}"
    return COMMON | {"model": model, "messages": [{"role": "user", "content": text}]} | options


def ask(text: str, **options: Any) -> Any:
    return litellm.completion(**asked(text, **options))


def calls_of(reply: Any) -> list[tuple[str, Any]]:
    calls = reply.choices[0].message.tool_calls or []
    return [(call.function.name, json.loads(call.function.arguments)) for call in calls]


def models() -> None:
    options: Any = {"api_base": r.URL, "api_key": r.KEY, "check_provider_endpoint": True}
    for provider in ("hosted_vllm", "openai"):
        assert r.MODEL in litellm.get_valid_models(custom_llm_provider=provider, **options)


def chat() -> None:
    for provider in ("hosted_vllm", "openai", "lm_studio"):
        reply = ask(r.SAY, model=f"{provider}/{r.MODEL}").choices[0]
        assert (reply.message.content, reply.finish_reason) == (r.SAID, "stop")


def chat_streamed() -> None:
    assert "".join(chunk.choices[0].delta.content or "" for chunk in ask(r.SAY, stream=True)) == r.SAID


async def chat_async() -> None:
    reply: Any = await litellm.acompletion(**asked(r.SAY))
    assert reply.choices[0].message.content == r.SAID
    stream: Any = await litellm.acompletion(**asked(r.SAY, stream=True))
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == r.SAID


def tools_auto() -> None:
    reply = ask(r.CALL, tools=[r.TOOL])
    assert calls_of(reply) == [("get_weather", r.PARIS)], reply
    call = reply.choices[0].message
    result = {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": "Sunny"}
    turns = [{"role": "user", "content": "Weather?"}, call, result, {"role": "user", "content": r.SAY}]
    assert ask("", messages=turns, tools=[r.TOOL]).choices[0].message.content == r.SAID


def tools_streamed() -> None:
    whole = litellm.stream_chunk_builder(list(ask(r.TWO_CALLS, tools=[r.TOOL], stream=True)))
    assert [given["city"] for _, given in calls_of(whole)] == ["Paris", "Rome"]


def tools_required() -> None:
    ((name, given),) = calls_of(ask("Hi", tools=[r.TOOL], tool_choice="required", parallel_tool_calls=False))
    assert (name, list(given)) == ("get_weather", ["city"])


def tools_named() -> None:
    other = {"type": "function", "function": {"name": "other", "parameters": {"type": "object"}}}
    named = {"type": "function", "function": {"name": "get_weather"}}
    assert calls_of(ask("Hi", tools=[other, r.TOOL], tool_choice=named))[0][0] == "get_weather"


def tools_parallel() -> None:
    assert len(calls_of(ask(r.TWO_CALLS, tools=[r.TOOL]))) == 2
    assert len(calls_of(ask(r.TWO_CALLS, tools=[r.TOOL], parallel_tool_calls=False))) == 1


def structured() -> None:
    assert json.loads(ask(r.OBJECT, response_format=FORMAT).choices[0].message.content)["degrees"] == 21


def structured_with_tools() -> None:
    options: Any = {"tools": [r.TOOL], "response_format": FORMAT}
    assert json.loads(ask(r.OBJECT, **options).choices[0].message.content)["degrees"] == 21
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
    r.raises(litellm.NotFoundError, lambda: ask("Hi", model="hosted_vllm/no/model"))
    r.raises(litellm.BadRequestError, lambda: ask("Hi", temperature="warm"))
    r.raises(litellm.ContextWindowExceededError, lambda: ask(r.LONG))


def stop_and_length() -> None:
    assert ask(r.SAY, stop=["answer"]).choices[0].message.content == "The "
    assert ask(r.SAY, max_tokens=2).choices[0].finish_reason == "length"


def embeddings() -> None:
    for provider in ("hosted_vllm", "openai"):
        reply = litellm.embedding(
            model=f"{provider}/{r.EMBEDDER}", input=["one", "two"], api_base=r.BASE, api_key=r.KEY
        )
        assert [len(item["embedding"]) for item in reply.data] == [384, 384]


def completions() -> None:
    options = {name: value for name, value in COMMON.items() if name != "max_tokens"}
    reply: Any = litellm.text_completion(
        model=f"text-completion-openai/{r.MODEL}", prompt=["Once", "Twice"], max_tokens=4, **options
    )
    assert [choice.index for choice in reply.choices] == [0, 1]


def responses() -> None:
    options: Any = {"model": f"openai/{r.MODEL}", "api_base": r.BASE, "api_key": r.KEY, "max_output_tokens": 120}
    reply: Any = litellm.responses(input=r.SAY, **options)
    assert [item.content[0].text for item in reply.output if item.type == "message"] == [r.SAID]
    events: Any = list(litellm.responses(input=r.SAY, stream=True, **options))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == r.SAID
    flat = {"type": "function", **r.TOOL["function"]}
    reply = litellm.responses(input="Hi", tools=[flat], tool_choice="required", **options)
    assert any(item.type == "function_call" for item in reply.output)


def messages() -> None:
    options: Any = {"model": f"anthropic/{r.MODEL}", "api_base": r.URL}
    assert ask(r.SAY, **options).choices[0].message.content == r.SAID
    assert "".join(part.choices[0].delta.content or "" for part in ask(r.SAY, stream=True, **options)) == r.SAID
    assert calls_of(ask(r.CALL, tools=[r.TOOL], **options)) == [("get_weather", r.PARIS)]
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    options |= {"thinking": thinking, "allowed_openai_params": ["thinking"], "max_tokens": 2048}
    thought = ask(r.THINK, **options).choices[0].message
    assert (thought.reasoning_content, thought.content) == (r.THOUGHT, r.SAID)


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
        "messages": messages,
    },
    rest="",
)
