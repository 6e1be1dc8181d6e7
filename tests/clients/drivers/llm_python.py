"""The `llm` command, with the server in its `extra-openai-models.yaml`, and its Python interface for other checks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import report as r

FOLDER = Path.home() / "llm"
os.environ["LLM_USER_PATH"] = str(FOLDER)

import llm  # noqa: E402 - reads the folder's name when it is imported

COMMAND = [sys.executable, "-m", "llm"]
CONFIG = f"""
- model_id: neuron
  model_name: {r.MODEL}
  api_base: {r.BASE}
  supports_schema: true
  supports_tools: true
  reasoning: true
- model_id: neuron-none
  model_name: no/model
  api_base: {r.BASE}
- model_id: neuron-text
  model_name: {r.MODEL}
  api_base: {r.BASE}
  completion: true
"""
FUNCTION = '''
def get_weather(city: str) -> str:
    """The weather in a city."""
    return "Sunny in " + city
'''


def run(*arguments: str, status: int | None = 0) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run([*COMMAND, *arguments], check=False, capture_output=True, text=True, timeout=300)
    assert status in {None, ended.returncode}, ended.stderr
    return ended


def prompt(text: str, *arguments: str) -> str:
    return run("-m", "neuron", text, *arguments).stdout.strip()


def chat() -> None:
    assert prompt(r.SAY, "--no-stream") == r.SAID
    assert run("-m", "neuron", "-c", r.SAY).stdout.strip() == r.SAID


def chat_streamed() -> None:
    assert prompt(r.SAY) == r.SAID


async def chat_async() -> None:
    reply = await llm.get_async_model("neuron").prompt(r.SAY, key=r.KEY)
    assert await reply.text() == r.SAID


def cities(text: str, *, stream: bool) -> list[str]:
    def get_weather(city: str) -> str:
        """The weather in a city."""
        return city

    reply = llm.get_model("neuron").prompt(text, tools=[get_weather], stream=stream, key=r.KEY)
    return [call.arguments["city"] for call in reply.tool_calls()]


def tools_auto() -> None:
    assert cities(r.CALL, stream=False) == ["Paris"]
    options = ["--functions", FUNCTION, "--td", "--cl", "2"]  # what the model says of the result is its own affair
    assert "Sunny in Paris" in run("-m", "neuron", r.CALL, *options, status=None).stderr


def tools_streamed() -> None:
    assert cities(r.CALL, stream=True) == ["Paris"]


def tools_parallel() -> None:
    assert cities(r.TWO_CALLS, stream=True) == cities(r.TWO_CALLS, stream=False) == ["Paris", "Rome"]


def structured() -> None:
    assert json.loads(prompt(r.OBJECT, "--schema", json.dumps(r.SCHEMA))) == {"city": "Paris", "degrees": 21}


def usage() -> None:
    for stream in ([], ["--no-stream"]):
        assert "Token usage:" in run("-m", "neuron", r.SAY, "-u", *stream).stderr


def errors() -> None:
    assert "no/model" in run("-m", "neuron-none", "Hi", status=1).stderr
    assert "maximum context length" in run("-m", "neuron", r.LONG[:90000], status=1).stderr


def stop_and_length() -> None:
    assert prompt(r.SAY, "-o", "stop", "answer") == "The"
    assert len(prompt(r.SAY, "-o", "max_tokens", "2")) < len(r.SAID)


def completions() -> None:
    assert run("-m", "neuron-text", "Once upon a", "-o", "max_tokens", "4").stdout.strip()


FOLDER.mkdir(parents=True, exist_ok=True)
(FOLDER / "extra-openai-models.yaml").write_text(CONFIG)
run("logs", "on")
r.report(
    {
        "models": "the models are those of its own list",
        "chat": chat,
        "chat, streamed": chat_streamed,
        "chat, async": chat_async,
        "tools, auto": tools_auto,
        "tools, streamed": tools_streamed,
        "tools, required": "it has no `tool_choice`",
        "tools, named": "it has no `tool_choice`",
        "tools, parallel": tools_parallel,
        "structured": structured,
        "structured, with tools": "it takes no tools beside a schema",
        "reasoning": "it drops `reasoning_content`",
        "usage": usage,
        "errors": errors,
        "stop, length": stop_and_length,
        "embeddings": "its own models only",
        "completions": completions,
    },
    rest="it does not speak it",
)
