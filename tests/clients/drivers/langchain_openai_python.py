"""LangChain's package for OpenAI, synchronous and asynchronous."""

from typing import Any

import openai
import report as r
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from langchain_parts import Weather, cities, get_weather, whole


def model(**options: Any) -> ChatOpenAI:
    common: Any = {"model": r.MODEL, "base_url": r.BASE, "api_key": r.KEY, "max_retries": 0, "max_tokens": 120}
    return ChatOpenAI(**(common | options))


def chat() -> None:
    reply = model().invoke(r.SAY)
    assert (reply.content, reply.response_metadata["finish_reason"]) == (r.SAID, "stop")


def chat_streamed() -> None:
    assert whole(model().stream(r.SAY)).content == r.SAID


async def chat_async() -> None:
    assert (await model().ainvoke(r.SAY)).content == r.SAID
    assert "".join([chunk.content async for chunk in model().astream(r.SAY)]) == r.SAID


def tools_auto() -> None:
    bound = model().bind_tools([get_weather])
    reply = bound.invoke(r.CALL)
    assert cities(reply) == ["Paris"]
    result = ToolMessage("Sunny", tool_call_id=reply.tool_calls[0]["id"])
    assert bound.invoke([HumanMessage("Weather?"), reply, result, HumanMessage(r.SAY)]).content == r.SAID


def tools_streamed() -> None:
    assert cities(whole(model().bind_tools([get_weather]).stream(r.TWO_CALLS))) == ["Paris", "Rome"]


def tools_required() -> None:
    reply = model().bind_tools([get_weather], tool_choice="any", parallel_tool_calls=False).invoke("Hi")
    assert len(cities(reply)) == 1


def tools_named() -> None:
    assert cities(model().bind_tools([get_weather], tool_choice="get_weather").invoke("Hi"))


def tools_parallel() -> None:
    assert len(cities(model().bind_tools([get_weather]).invoke(r.TWO_CALLS))) == 2
    assert len(cities(model().bind_tools([get_weather], parallel_tool_calls=False).invoke(r.TWO_CALLS))) == 1


def structured() -> None:
    for method in ("json_schema", "function_calling"):
        shaped: Any = model().with_structured_output(Weather, method=method)
        assert isinstance(shaped.invoke("Weather?" if method == "function_calling" else r.OBJECT), Weather), method


def structured_with_tools() -> None:
    shaped = model().with_structured_output(
        Weather, method="json_schema", tools=[get_weather], include_raw=True, strict=True
    )
    assert shaped.invoke(r.OBJECT)["parsed"] == Weather(city="Paris", degrees=21)
    assert cities(shaped.invoke(r.CALL)["raw"]) == ["Paris"]


def usage() -> None:
    assert (model().invoke(r.SAY).usage_metadata or {})["output_tokens"] > 0
    assert (whole(model(stream_usage=True).stream(r.SAY)).usage_metadata or {})["total_tokens"] > 0


def errors() -> None:
    r.raises(openai.NotFoundError, lambda: model(model="no/model").invoke("Hi"))
    r.raises(openai.BadRequestError, lambda: model().invoke("Hi", temperature="warm"))
    r.raises(ContextOverflowError, lambda: model().invoke(r.LONG))


def stop_and_length() -> None:
    assert model().invoke(r.SAY, stop=["answer"]).content == "The "
    assert model(max_tokens=2).invoke(r.SAY).response_metadata["finish_reason"] == "length"


def embeddings() -> None:
    embedder = OpenAIEmbeddings(
        model=r.EMBEDDER, base_url=r.BASE, api_key=r.KEY, max_retries=0, check_embedding_ctx_length=False
    )
    assert [len(vector) for vector in embedder.embed_documents(["one", "two"])] == [384, 384]


def completions() -> None:
    options: Any = {"model": r.MODEL, "base_url": r.BASE, "api_key": r.KEY, "max_retries": 0, "max_tokens": 4}
    assert OpenAI(**options).invoke("Once upon a")
    assert "".join(OpenAI(**options).stream("Once upon a"))


def responses() -> None:
    later = model(use_responses_api=True)
    assert later.invoke(r.SAY).text == r.SAID
    assert whole(later.stream(r.SAY)).text == r.SAID
    assert cities(later.bind_tools([get_weather]).invoke(r.CALL)) == ["Paris"]
    assert cities(whole(later.bind_tools([get_weather], tool_choice="any").stream("Hi")))


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
        "reasoning": "it reads reasoning from OpenAI's own servers only, and drops `reasoning_content`",
        "usage": usage,
        "errors": errors,
        "stop, length": stop_and_length,
        "embeddings": embeddings,
        "completions": completions,
        "responses": responses,
        "messages": "langchain-anthropic speaks it",
    },
    rest="",
)
