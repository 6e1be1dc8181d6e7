"""What the drivers of LangChain's packages share: a tool, the shape of an answer, and how messages are read."""

from typing import Any

from langchain_core.messages import AIMessageChunk
from langchain_core.tools import tool
from pydantic import BaseModel

__all__ = ("Weather", "cities", "get_weather", "whole")


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    degrees: int


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"Sunny in {city}"


def whole(stream: Any) -> AIMessageChunk:
    """The pieces of a stream as one message."""
    total: Any = None
    for chunk in stream:
        total = chunk if total is None else total + chunk
    return total


def cities(message: Any) -> list[str]:
    """The cities that the tool calls of a message name."""
    return [call["args"]["city"] for call in message.tool_calls]
