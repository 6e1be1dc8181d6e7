from typing import Any

import pytest

from neuron_service.asgi import DIRECT_WRITE
from neuron_service.http_rules import HttpRules
from tests.fakes.asgi_client import AsgiClient

pytestmark = pytest.mark.anyio


async def answer_in_pieces(scope: Any, receive: Any, send: Any) -> None:
    assert scope["method"] == "GET"
    assert not scope.get("extensions")  # by which the body of an answer to HEAD could be written
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for piece in (b"a", b"b", b""):
        await send({"type": "http.response.body", "body": piece, "more_body": bool(piece)})


async def test_an_answer_in_pieces_ends_once_for_head() -> None:
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    scope: Any = {
        "type": "http",
        "method": "HEAD",
        "path": "/x",
        "raw_path": b"/x",
        "headers": [],
        "extensions": {DIRECT_WRITE: {}},
    }
    receive: Any = None
    await HttpRules(answer_in_pieces)(scope, receive, send)
    assert [message["type"] for message in messages] == ["http.response.start", "http.response.body"]
    assert messages[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_other_answers_are_left_as_they_are() -> None:
    assert (await AsgiClient(HttpRules(answer_in_pieces)).get("/x")).body == b"ab"
