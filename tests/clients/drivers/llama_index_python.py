"""LlamaIndex's OpenAILike, synchronous and asynchronous."""

from typing import Any

import openai
import report as r
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    degrees: int


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"Sunny in {city}"


TOOL = FunctionTool.from_defaults(get_weather)


def model(**options: Any) -> OpenAILike:
    common: Any = {"model": r.MODEL, "api_base": r.BASE, "api_key": r.KEY, "max_retries": 0, "max_tokens": 120}
    known = {"is_chat_model": True, "is_function_calling_model": True, "context_window": 4096, "temperature": 0}
    return OpenAILike(**(common | known | options))


def said(text: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=text)]


def calls_of(reply: Any) -> list[tuple[str, Any]]:
    calls = model().get_tool_calls_from_response(reply, error_on_no_tool_call=False)
    return [(call.tool_name, call.tool_kwargs) for call in calls]


def chat() -> None:
    assert model().chat(said(r.SAY)).message.content == r.SAID
    assert model().complete(r.SAY).text == r.SAID


def chat_streamed() -> None:
    assert "".join(part.delta or "" for part in model().stream_chat(said(r.SAY))) == r.SAID


async def chat_async() -> None:
    assert (await model().achat(said(r.SAY))).message.content == r.SAID
    assert "".join([part.delta or "" async for part in await model().astream_chat(said(r.SAY))]) == r.SAID


def tools_auto() -> None:
    reply = model().chat_with_tools([TOOL], user_msg=r.CALL)
    assert calls_of(reply) == [("get_weather", r.PARIS)]
    (call,) = model().get_tool_calls_from_response(reply)
    result = ChatMessage(role="tool", content="Sunny", additional_kwargs={"tool_call_id": call.tool_id})
    history = [*said("Weather?"), reply.message, result, *said(r.SAY)]
    assert model().chat_with_tools([TOOL], chat_history=history).message.content == r.SAID


def tools_streamed() -> None:
    *_, last = model().stream_chat_with_tools([TOOL], user_msg=r.TWO_CALLS, allow_parallel_tool_calls=True)
    assert [given["city"] for _, given in calls_of(last)] == ["Paris", "Rome"]


def tools_required() -> None:
    assert calls_of(model().chat_with_tools([TOOL], user_msg="Hi", tool_required=True))


def tools_named() -> None:
    other = FunctionTool.from_defaults(lambda: "", name="other", description="Another function.")
    reply = model().chat_with_tools([other, TOOL], user_msg="Hi", tool_choice="get_weather")
    assert calls_of(reply)[0][0] == "get_weather"


def tools_parallel() -> None:
    for allowed, count in ((True, 2), (False, 1)):
        reply = model().chat_with_tools([TOOL], user_msg=r.TWO_CALLS, allow_parallel_tool_calls=allowed)
        assert len(calls_of(reply)) == count


def structured() -> None:
    by_schema = model(should_use_structured_outputs=True).as_structured_llm(Weather)
    assert by_schema.chat(said(r.OBJECT)).raw == Weather(city="Paris", degrees=21)
    by_function = model(max_tokens=300).as_structured_llm(Weather)
    assert isinstance(by_function.chat(said("Weather?")).raw, Weather)


def reasoning() -> None:
    *_, last = model().stream_chat(said(r.THINK))
    for message in (model().chat(said(r.THINK)).message, last.message):
        thoughts = [block.content for block in message.blocks if block.block_type == "thinking"]
        assert (thoughts, message.content) == ([r.THOUGHT], r.SAID)


def usage() -> None:
    assert model().chat(said(r.SAY)).raw.usage.completion_tokens > 0
    options = {"stream_options": {"include_usage": True}}
    *_, last = model(additional_kwargs=options).stream_chat(said(r.SAY))
    assert last.raw.usage.total_tokens > 0


def errors() -> None:
    r.raises(openai.NotFoundError, lambda: model(model="no/model").chat(said("Hi")))
    r.raises(openai.BadRequestError, lambda: model().chat(said("Hi"), top_p="warm"))
    r.raises(openai.BadRequestError, lambda: model().chat(said(r.LONG)))


def stop_and_length() -> None:
    assert model().chat(said(r.SAY), stop=["answer"]).message.content == "The "
    assert model(max_tokens=2).chat(said(r.SAY)).raw.choices[0].finish_reason == "length"


def completions() -> None:
    assert model(is_chat_model=False, max_tokens=4).complete("Once upon a").text
    assert [part.delta for part in model(is_chat_model=False, max_tokens=4).stream_complete("Once upon a")]


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
        "embeddings": "another package has them, llama-index-embeddings-openai-like",
        "completions": completions,
    },
    rest="it does not speak it",
)
