import threading
from typing import Any

import anyio
import pytest

from neuron_service.app import create_routes
from neuron_service.host import Host
from neuron_service.http_rules import HttpRules
from neuron_service.late_routes import LateRoutes
from neuron_service.probes import Probes
from neuron_service.version import Version
from tests.fakes.asgi_client import AsgiClient, Reply
from tests.fakes.scripted_host import chat_body, scripted_host

pytestmark = pytest.mark.anyio

A = "org/a"


def early_app(host: Host, routes: LateRoutes) -> AsgiClient:
    return AsgiClient(HttpRules(Probes(host, routes)))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/health", "/healthz", "/readyz", "/version"])
async def test_probes_are_answered_before_the_routes_are_loaded(method: str, path: str) -> None:
    async with scripted_host() as host:
        late = LateRoutes(lambda: create_routes(host.real))
        reply = await early_app(host.real, late).request(method, path)
        assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
        assert reply.headers["content-length"] == str(len((await host.client.get(path)).body))


async def test_other_requests_wait_until_the_routes_are_loaded_in_a_thread() -> None:
    may_build = threading.Event()
    replies: list[Reply] = []
    async with scripted_host(resident=[A]) as host:

        def build() -> Any:
            assert may_build.wait(60)
            return create_routes(host.real)

        late = LateRoutes(build)
        client = early_app(host.real, late)

        async def ask(method: str, path: str, body: Any = b"") -> None:
            replies.append(await client.request(method, path, body))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(late.load)
            tasks.start_soon(ask, "GET", "/models")
            tasks.start_soon(ask, "POST", "/v1/chat/completions", chat_body(A))
            tasks.start_soon(ask, "GET", "/nothing")
            await anyio.wait_all_tasks_blocked()
            assert (await client.get("/health")).status == 200
            assert replies == []
            may_build.set()
    assert sorted(reply.status for reply in replies) == [200, 200, 404]


async def test_a_host_that_ends_before_its_routes_are_loaded_refuses_the_requests_that_wait() -> None:
    replies: list[Reply] = []
    async with scripted_host() as host:
        late = LateRoutes(lambda: create_routes(host.real))
        client = early_app(host.real, late)

        async def ask() -> None:
            replies.append(await client.get("/models"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            late.close()
    (reply,) = replies
    assert (reply.status, reply.json()["error"]["code"]) == (503, "shutting_down")
    assert reply.headers["retry-after"] == "15"


async def test_version_waits_for_the_first_answer_and_then_remembers_it() -> None:
    async with scripted_host() as host:
        host.real.version = None
        replies: list[Reply] = []

        async def ask() -> None:
            replies.append(await host.client.get("/version"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            assert replies == []
            host.real.set_version(Version(package_version="9.9"))
        assert replies[0].json()["package_version"] == "9.9"
        assert (await host.client.get("/version")).json()["package_version"] == "9.9"


async def test_version_is_a_503_on_a_host_that_stops_before_the_version_is_known() -> None:
    async with scripted_host() as host:
        host.real.version = None
        host.real.start_draining()
        reply = await host.client.get("/version")
    assert (reply.status, reply.json()["error"]["code"]) == (503, "shutting_down")


async def test_a_bug_in_a_probe_is_a_500_in_our_envelope(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted_host() as host:

        def stumble() -> None:
            raise ZeroDivisionError("one over nothing")

        monkeypatch.setattr(type(host.real), "health", lambda _: stumble())
        reply = await host.client.get("/health")
    assert (reply.status, reply.json()["error"]["type"]) == (500, "api_error")
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.levelname == "ERROR"
