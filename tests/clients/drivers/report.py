"""What every driver of a Python client shares: the texts to send, and a line on standard output for each feature.

Imports nothing but the standard library, because it runs in the environment of the client. `texts.json`
has the texts for the clients in all languages.
"""

import asyncio
import inspect
import json
import os
import traceback
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

URL = os.environ.get("NEURON_URL", "http://127.0.0.1:13131")
BASE = f"{URL}/v1"
KEY = "unused"

_TEXTS: dict[str, Any] = json.loads(Path(__file__).with_name("texts.json").read_text(encoding="utf-8"))
FEATURES: list[str] = _TEXTS["features"]
MODEL, EMBEDDER = _TEXTS["model"], _TEXTS["embedder"]
SAY, SAID, THINK, THOUGHT = (_TEXTS[name] for name in ("say", "said", "think", "thought"))
CALL, TWO_CALLS, OBJECT = (_TEXTS[name] for name in ("call", "two_calls", "object"))
PARAMETERS: dict[str, Any] = _TEXTS["parameters"]
SCHEMA: dict[str, Any] = _TEXTS["schema"]
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_weather", "description": _TEXTS["description"], "parameters": PARAMETERS},
}
PARIS = {"city": "Paris"}
LONG = "word " * 20000
"""More than the model's context takes."""

Check = Callable[[], object | Awaitable[object]]


def raises(wanted: type[BaseException], act: Callable[[], object]) -> Any:
    """Call `act`, which must raise `wanted`. Returns the error."""
    try:
        act()
    except wanted as error:
        return error
    raise AssertionError(f"no {wanted.__name__}")


def report(checks: Mapping[str, Check | str], *, rest: str) -> None:
    """Run the check of each feature and print its outcome: `ok`, or `fail` with the error.

    A text instead of a check says why there is none. `rest` is that text for the features that `checks` does not name.
    """
    unknown = checks.keys() - set(FEATURES)
    assert not unknown, unknown
    for feature in FEATURES:
        check = checks.get(feature, rest)
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
                detail = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        print(json.dumps({"feature": feature, "outcome": outcome, "detail": detail[:400]}), flush=True)


async def _wait(result: Awaitable[object]) -> object:
    return await result
