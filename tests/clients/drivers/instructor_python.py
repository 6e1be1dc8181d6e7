"""Instructor, synchronous and asynchronous: structured output in every mode for servers like OpenAI's."""

from collections.abc import Iterable
from typing import Any

import anthropic
import instructor
import openai
import report as r
from pydantic import BaseModel


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    degrees: int


def patched(mode: Any = instructor.Mode.TOOLS) -> Any:
    return instructor.from_openai(openai.OpenAI(base_url=r.BASE, api_key=r.KEY, max_retries=0), mode=mode)


def asked(text: str, **options: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    return {
        "model": r.MODEL,
        "messages": messages,
        "max_tokens": 300,
        "max_retries": 1,
        "response_model": Weather,
    } | options


def shaped(mode: Any, text: str = "Weather?") -> None:
    assert isinstance(patched(mode).chat.completions.create(**asked(text)), Weather), mode


def tools_named() -> None:
    for mode in (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT):
        shaped(mode)


def structured() -> None:
    for mode in (instructor.Mode.JSON_SCHEMA, instructor.Mode.JSON):
        shaped(mode, r.OBJECT)


def tools_streamed() -> None:
    *_, last = patched().chat.completions.create_partial(**asked("Weather?"))
    assert isinstance(last.city, str)
    assert isinstance(last.degrees, int)


def tools_parallel() -> None:
    text = r.TWO_CALLS.replace("get_weather", "Weather").replace('"}}', '", "degrees": 21}}')
    found = patched(instructor.Mode.PARALLEL_TOOLS).chat.completions.create(
        **asked(text, response_model=Iterable[Weather])
    )
    assert [weather.city for weather in found] == ["Paris", "Rome"]


async def chat_async() -> None:
    client: Any = instructor.from_openai(openai.AsyncOpenAI(base_url=r.BASE, api_key=r.KEY, max_retries=0))
    assert isinstance(await client.chat.completions.create(**asked("Weather?")), Weather)


def usage() -> None:
    _, completion = patched().chat.completions.create_with_completion(**asked("Weather?"))
    assert completion.usage.completion_tokens > 0


def errors() -> None:
    create = patched().chat.completions.create
    for text, options in (("Hi", {"model": "no/model"}), (r.LONG, {})):
        error = r.raises(Exception, lambda: create(**asked(text, **options)))  # noqa: B023 - called at once
        assert "no/model" in str(error) or "too long" in str(error), error


def responses() -> None:
    client: Any = instructor.from_openai(
        openai.OpenAI(base_url=r.BASE, api_key=r.KEY, max_retries=0), mode=instructor.Mode.RESPONSES_TOOLS
    )
    found = client.responses.create(
        model=r.MODEL, input="Weather?", response_model=Weather, max_output_tokens=300, max_retries=1
    )
    assert isinstance(found, Weather)


def messages() -> None:
    client: Any = anthropic.Anthropic(base_url=r.URL, api_key=r.KEY, max_retries=0)
    for mode, text in ((instructor.Mode.ANTHROPIC_TOOLS, "Weather?"), (instructor.Mode.ANTHROPIC_JSON, r.OBJECT)):
        found = instructor.from_anthropic(client, mode=mode).messages.create(**asked(text))
        assert isinstance(found, Weather), mode


r.report(
    {
        "chat": lambda: shaped(instructor.Mode.MD_JSON, "ECHO " + f"```json\n{r.OBJECT[5:]}\n```"),
        "chat, async": chat_async,
        "tools, streamed": tools_streamed,
        "tools, named": tools_named,
        "tools, parallel": tools_parallel,
        "structured": structured,
        "usage": usage,
        "errors": errors,
        "responses": responses,
        "messages": messages,
    },
    rest="it is about structured output alone; the rest is the client of `openai`",
)
