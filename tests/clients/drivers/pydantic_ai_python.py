"""Pydantic AI: through chat completions, and through Responses and Messages."""

from typing import Any

import report as r
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.embeddings import Embedder
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.exceptions import ModelHTTPError, UsageLimitExceeded
from pydantic_ai.messages import ThinkingPart
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import UsageLimits


class Weather(BaseModel):
    city: str
    degrees: int


def client() -> AsyncOpenAI:
    return AsyncOpenAI(base_url=r.BASE, api_key=r.KEY, max_retries=0)


def model(name: str = r.MODEL) -> OpenAIChatModel:
    return OpenAIChatModel(name, provider=OpenAIProvider(openai_client=client()))


def agent(chosen: Any = None, **options: Any) -> Any:
    settings = {"max_tokens": 120} | options.pop("settings", {})
    return Agent(chosen or model(), model_settings=settings, retries=0, **options)


def with_tool(called: list[str], chosen: Any = None, **options: Any) -> Any:
    made = agent(chosen, **options)

    @made.tool_plain
    def get_weather(city: str) -> str:
        """The weather in a city."""
        called.append(city)
        return "Sunny"

    return made


async def once(made: Any, text: str) -> None:
    """One request and the calls that it brings. The model of this test would call again without end."""
    try:
        await made.run(text, usage_limits=UsageLimits(request_limit=1))
    except UsageLimitExceeded:
        return


def chat() -> None:
    assert agent().run_sync(r.SAY).output == r.SAID


async def chat_async() -> None:
    assert (await agent().run(r.SAY)).output == r.SAID


async def chat_streamed() -> None:
    async with agent().run_stream(r.SAY) as stream:
        assert "".join([text async for text in stream.stream_text(delta=True)]) == r.SAID


async def tools_auto() -> None:
    called: list[str] = []
    await once(with_tool(called), r.CALL)
    assert called == ["Paris"]


async def tools_streamed() -> None:
    called: list[str] = []
    try:
        async with with_tool(called).run_stream(r.TWO_CALLS, usage_limits=UsageLimits(request_limit=1)) as stream:
            await stream.get_output()
    except UsageLimitExceeded:
        pass
    assert sorted(called) == ["Paris", "Rome"]


async def tools_required() -> None:
    reply = await agent(output_type=ToolOutput(Weather), settings={"max_tokens": 300}).run(r.SAY)
    assert isinstance(reply.output, Weather)


async def tools_named() -> None:
    settings = {"tool_choice": ["weather"], "max_tokens": 300}
    made = with_tool([], output_type=ToolOutput(Weather, name="weather"), settings=settings)
    assert isinstance((await made.run("Hi")).output, Weather)


async def tools_parallel() -> None:
    called: list[str] = []
    await once(with_tool(called), r.TWO_CALLS)
    assert sorted(called) == ["Paris", "Rome"]
    await once(with_tool(called, settings={"parallel_tool_calls": False}), r.TWO_CALLS)
    assert len(called) == 3


async def structured() -> None:
    assert (await agent(output_type=NativeOutput(Weather)).run(r.OBJECT)).output == Weather(city="Paris", degrees=21)


async def structured_with_tools() -> None:
    called: list[str] = []
    both = with_tool(called, output_type=NativeOutput(Weather))
    assert (await both.run(r.OBJECT)).output == Weather(city="Paris", degrees=21)
    await once(both, r.CALL)
    assert called == ["Paris"]


def thoughts(result: Any) -> list[str]:
    return [part.content for part in result.new_messages()[-1].parts if isinstance(part, ThinkingPart)]


async def reasoning() -> None:
    result = await agent().run(r.THINK)
    assert (thoughts(result), result.output) == ([r.THOUGHT], r.SAID)
    async with agent().run_stream(r.THINK) as stream:
        assert await stream.get_output() == r.SAID
        assert thoughts(stream) == [r.THOUGHT]


def tokens(result: Any) -> int:
    used = result.usage() if callable(result.usage) else result.usage
    return int(used.output_tokens)


async def usage() -> None:
    assert tokens(await agent().run(r.SAY)) > 0
    async with agent().run_stream(r.SAY) as stream:
        await stream.get_output()
        assert tokens(stream) > 0


async def errors() -> None:
    for made, text, status in ((agent(model("no/model")), "Hi", 404), (agent(), r.LONG, 400)):
        try:
            await made.run(text)
        except ModelHTTPError as error:
            assert error.status_code == status
        else:
            raise AssertionError("no error")


async def stop_and_length() -> None:
    assert (await agent(settings={"stop_sequences": ["answer"]}).run(r.SAY)).output == "The "
    cut = await agent(settings={"max_tokens": 2}).run(r.SAY)
    assert cut.new_messages()[-1].finish_reason == "length"


async def embeddings() -> None:
    embedder = Embedder(OpenAIEmbeddingModel(r.EMBEDDER, provider=OpenAIProvider(openai_client=client())))
    result = await embedder.embed_documents(["one", "two"])
    assert [len(vector) for vector in result.embeddings] == [384, 384]


async def through(chosen: Any) -> None:
    assert (await agent(chosen).run(r.SAY)).output == r.SAID
    async with agent(chosen).run_stream(r.SAY) as stream:
        assert await stream.get_output() == r.SAID
    called: list[str] = []
    await once(with_tool(called, chosen), r.CALL)
    assert called == ["Paris"]
    assert isinstance(
        (await agent(chosen, output_type=Weather, settings={"max_tokens": 300}).run("Hi")).output, Weather
    )


async def responses() -> None:
    await through(OpenAIResponsesModel(r.MODEL, provider=OpenAIProvider(openai_client=client())))


async def messages() -> None:
    speaker = AsyncAnthropic(base_url=r.URL, api_key=r.KEY, max_retries=0)
    await through(AnthropicModel(r.MODEL, provider=AnthropicProvider(anthropic_client=speaker)))


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
        "stop, length": stop_and_length,
        "embeddings": embeddings,
        "completions": "it has no such model",
        "responses": responses,
        "messages": messages,
    },
    rest="",
)
