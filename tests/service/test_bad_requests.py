import logging

import pytest

from tests.fakes.scripted_host import chat_body, scripted_host

pytestmark = pytest.mark.anyio

A = "org/a"
CHAT = "/v1/chat/completions"
PROMPT = "the-secret-recipe"
DEEP = 200_000


def with_field(field: bytes) -> bytes:
    return b'{"model":"org/a","messages":[{"role":"user","content":"%s"}],%s}' % (PROMPT.encode(), field)


# One body of each way to be bad; `tests/lib/wire/test_openai_chat_request.py` has all the others.
MALFORMED = {
    "empty": b"",
    "trailing garbage": with_field(b'"top_p":0.5') + b" trailing",
    "UTF-16": '{"model":"org/a"}'.encode("utf-16"),
    "unknown field that is not UTF-8": with_field(b'"unknown":"\xff"'),
    "unknown field nested 200000 deep": with_field(b'"unknown":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP),
    "700000 lists in an unknown field": with_field(b'"unknown":[' + b"[]," * 690_000 + b"[]]"),
    "Infinity": with_field(b'"temperature":Infinity'),
}
MISSHAPEN = {
    "array": b"[]",
    "no messages": b'{"model":"org/a"}',
    "remote picture": b'{"model":"org/a","messages":[{"role":"user","content":%s}]}'
    % b'[{"type":"text","text":"the-secret-recipe"},{"type":"image_url","image_url":{"url":"http://example.com/x.png"}}]',
    "textual temperature": with_field(b'"temperature":"hot"'),
    "max_tokens of 2^64": with_field(b'"max_tokens":18446744073709551616'),
    "ten thousand stop strings": with_field(b'"stop":[' + b'"x",' * 10_000 + b'"x"]'),
    "two shapes of one reply": with_field(b'"regex":"a","grammar":"start: A"'),
    "textual stream": with_field(b'"stream":"yes"'),
}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [pytest.param(body, 400, "malformed_json", id=name) for name, body in MALFORMED.items()]
    + [pytest.param(body, 400, "invalid_request_body", id=name) for name, body in MISSHAPEN.items()],
)
async def test_each_kind_of_bad_body_has_its_own_code_and_does_not_disturb_the_next_request(
    body: bytes, status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted_host(resident=[A]) as host:
        reply = await host.client.post(CHAT, body)
        assert host.harness.requests == []
        assert (await host.client.post(CHAT, chat_body(A))).status == 200
    error = reply.json()["error"]
    assert (reply.status, error["type"], error["code"]) == (status, "invalid_request_error", code)
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert {key: warning.__dict__[key] for key in ("method", "path", "status", "code")} == {
        "method": "POST",
        "path": CHAT,
        "status": status,
        "code": code,
    }
    assert PROMPT not in caplog.text


@pytest.mark.parametrize("path", [CHAT, "/models/load", "/models/unload"])
@pytest.mark.parametrize("content_type", ["text/plain", "application/json; charset=utf-16", None])
async def test_a_body_that_does_not_claim_to_be_json_is_a_415(path: str, content_type: str | None) -> None:
    async with scripted_host(resident=[A]) as host:
        headers = {} if content_type is None else {"content-type": content_type}
        reply = await host.client.post(path, chat_body(A), headers=headers)
    assert (reply.status, reply.json()["error"]["code"]) == (415, "unsupported_media_type")


async def test_every_spelling_of_json_is_read() -> None:
    async with scripted_host(resident=[A]) as host:
        headers = {"content-type": 'APPLICATION/json;charset="UTF-8"'}
        assert (await host.client.post(CHAT, chat_body(A), headers=headers)).status == 200


@pytest.mark.parametrize("says_its_length", [True, False])
async def test_a_body_beyond_the_limit_is_a_400_and_never_read_whole(
    *, says_its_length: bool, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"content-type": "application/json"}
    if says_its_length:
        headers["content-length"] = str(9 << 20)
    async with scripted_host(resident=[A]) as host:
        body = b"x" if says_its_length else b" " * (9 << 20)
        async with host.client.open("POST", CHAT, body, headers=headers, more_body=True) as exchange:
            reply = await exchange.reply()
    assert (reply.status, reply.json()["error"]["code"]) == (400, "invalid_request_body")
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


@pytest.mark.parametrize("path", [CHAT, "/models/load"])
async def test_a_length_that_is_no_number_is_a_400(path: str) -> None:
    async with scripted_host() as host:
        headers = {"content-type": "application/json", "content-length": "many"}
        assert (await host.client.post(path, b"{}", headers=headers)).status == 400


async def test_a_load_body_that_is_nested_200_000_deep_is_a_400() -> None:
    async with scripted_host() as host:
        body = b'{"model_id":"a/b","harness":"scripted","x":' + b"[" * DEEP + b"]" * DEEP + b"}"
        assert (await host.client.post("/models/load", body)).status == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/page/nothing.js"),
        ("GET", "/nothing"),
        ("GET", "/healthx"),
        ("POST", "/v1/nothing"),
        ("GET", "/models/org/a/"),
        ("GET", "/schema"),
        ("GET", "/health/"),
        ("GET", "//models"),
        ("GET", "/v1//models"),
        ("POST", "/v1/chat/completions/"),
        ("OPTIONS", "/nothing"),
    ],
)
async def test_an_unknown_path_is_a_nested_404_that_is_told_at_info(
    method: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="neuron_service")
    async with scripted_host() as host:
        reply = await host.client.request(method, path)
    assert (reply.status, reply.json()["error"]["code"]) == (404, "not_found")
    # No warning: every scanner asks for such paths.
    assert [record.levelname for record in caplog.records if record.name.startswith("neuron_service")] == ["INFO"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", CHAT),
        ("DELETE", CHAT),
        ("GET", "/models/load"),
        ("GET", "/models/unload"),
        ("POST", "/health"),
        ("OPTIONS", "/health"),
        ("OPTIONS", CHAT),
        ("PUT", "/models"),
        ("POST", "/models/org/a/endpoint"),
        ("TRACE", "/health"),
    ],
)
async def test_an_unknown_method_is_a_nested_405_that_names_the_known_ones(
    method: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted_host() as host:
        reply = await host.client.request(method, path)
    assert (reply.status, reply.json()["error"]["code"]) == (405, "method_not_allowed")
    assert reply.headers["allow"]
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


@pytest.mark.parametrize(("path", "methods"), [("/health", "GET, HEAD"), (CHAT, "POST")])
@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "DELETE"])
async def test_allow_names_exactly_the_methods_that_are_answered(path: str, methods: str, method: str) -> None:
    async with scripted_host() as host:
        assert (await host.client.request(method, path)).headers["allow"] == methods


@pytest.mark.parametrize("path", ["/health", "/models", "/v1/models", "/discovery", "/version", "/models/loading"])
async def test_head_is_answered_as_get_is_but_without_the_body(path: str) -> None:
    async with scripted_host(resident=[A]) as host:
        head, get = await host.client.request("HEAD", path), await host.client.get(path)
    assert (head.status, head.headers, head.body) == (200, get.headers, b"")
    assert get.body


@pytest.mark.parametrize(("path", "status"), [("/nothing", 404), (CHAT, 405)])
async def test_head_is_refused_wherever_get_is_refused(path: str, status: int) -> None:
    async with scripted_host() as host:
        head = await host.client.request("HEAD", path)
    assert (head.status, head.body) == (status, b"")


async def test_head_of_a_stream_ends_at_once() -> None:
    async with scripted_host() as host:
        head = await host.client.request("HEAD", "/models/loading/events")
    assert (head.status, head.headers["content-type"], head.body) == (200, "text/event-stream; charset=utf-8", b"")


async def test_no_answer_is_ever_compressed_or_opened_to_other_origins() -> None:
    async with scripted_host(resident=[A]) as host:
        headers = {"content-type": "application/json", "accept-encoding": "gzip, br", "origin": "http://example.com"}
        for reply in (
            await host.client.request("GET", "/health", headers=headers),
            await host.client.post(CHAT, chat_body(A, stream=True), headers=headers),
        ):
            assert reply.status == 200
            assert not [name for name in reply.headers if name.startswith(("content-encoding", "access-control"))]
