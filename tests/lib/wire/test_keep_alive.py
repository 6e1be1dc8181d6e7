import json
import math
from typing import Any

import pytest

from neuron_lib.errors import InvalidRequest
from neuron_lib.wire import llamacpp_completion, openai_chat, openai_completions, openai_embeddings, openai_responses
from neuron_lib.wire.keep_alive import read_keep_alive

JSON = {"content-type": "application/json"}
CHAT = {"model": "a/b", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "a/b", "prompt": "hi"}
EMBEDDING = {"model": "a/b", "input": "hi"}


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (0, 0),
        (90.5, 90.5),
        ("300", 300),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("250ms", 0.25),
        (-1, math.inf),
        ("-1.0", math.inf),
        ("-1m", math.inf),
        ("-1ns", math.inf),
    ],
)
def test_ollama_s_durations_are_understood(value: float | str | None, seconds: float | None) -> None:
    assert read_keep_alive(value) == seconds


@pytest.mark.parametrize("text", ["", "5 m", "m", "5d", "1h-30m", "--1", "inf", "nan", "1e3", "٣s"])
def test_any_other_text_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read_keep_alive(text)
    assert raised.value.param == "keep_alive"


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        (openai_chat, CHAT),
        (openai_completions, COMPLETION),
        (llamacpp_completion, COMPLETION),
        (openai_embeddings, EMBEDDING),
        (openai_responses, EMBEDDING),
    ],
    ids=["chat", "completion", "llama.cpp's completion", "embedding", "response"],
)
def test_the_field_reaches_the_task(dialect: Any, body: dict[str, Any]) -> None:
    def asked(**fields: object) -> float | None:
        task = dialect.decode(json.dumps(body | fields).encode(), headers=JSON, principal=None).task
        keep_alive_s: float | None = task.keep_alive_s
        return keep_alive_s

    assert (asked(), asked(keep_alive=None), asked(keep_alive="5m"), asked(keep_alive=-1)) == (
        None,
        None,
        300,
        math.inf,
    )
    wrongs: list[object] = ["soon", [], True, "s" * 65]
    for wrong in wrongs:
        with pytest.raises(InvalidRequest):
            asked(keep_alive=wrong)
