"""What every driver of a Python client shares: the texts to send, and a line on standard output for each feature.

Imports nothing but the standard library, because it runs in the environment of the client.
"""

import asyncio
import inspect
import json
import os
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

URL = os.environ.get("NEURON_URL", "http://127.0.0.1:13131")
BASE = f"{URL}/v1"
MODEL = "test/tools"
KEY = "unused"

SAY = "ECHO The answer is 4."
SAID = "The answer is 4."
THINK = "ECHO [TH]Let me think.[/TH]The answer is 4."
THOUGHT = "Let me think."
CALL = 'ECHO [TC]\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n[/TC]'
TWO_CALLS = (
    'ECHO [TC]\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n[/TC]'
    '[TC]\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n[/TC]'
)
OBJECT = 'ECHO {"city": "Paris", "degrees": 21}'

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather in a city.", "parameters": PARAMETERS},
}
PARIS = {"city": "Paris"}

Check = Callable[[], object | Awaitable[object]]


def report(checks: Mapping[str, Check | str]) -> None:
    """Run each check and print its outcome: `ok`, or `fail` with the error. A text says why there is no check."""
    for feature, check in checks.items():
        if isinstance(check, str):
            outcome, detail = "none", check
        else:
            try:
                result = check()
                if inspect.isawaitable(result):
                    asyncio.run(_wait(result))
                outcome, detail = "ok", ""
            except BaseException as error:  # noqa: BLE001 - whatever a client raises is its outcome
                outcome = "fail"
                where = traceback.extract_tb(error.__traceback__)[-1]
                detail = f"{type(error).__name__}: {error} ({os.path.basename(where.filename)}:{where.lineno})"  # noqa: PTH119
        print(json.dumps({"feature": feature, "outcome": outcome, "detail": detail[:400]}), flush=True)


async def _wait(result: Awaitable[object]) -> object:
    return await result
