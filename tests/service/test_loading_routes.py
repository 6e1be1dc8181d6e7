import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio import wait_all_tasks_blocked

from neuron_lib import LoadProgress, LoadStage
from neuron_lib.testing import ScriptedModel
from tests.fakes.scripted_host import ScriptedHost, scripted_host
from tests.fakes.wire_shapes import read_health, read_loading

SSE_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}

pytestmark = pytest.mark.anyio

A = "org/a"
DOWNLOADING = LoadProgress(stage=LoadStage.DOWNLOADING, file="a.gguf", bytes=10, total_bytes=40, bytes_per_s=5, eta_s=6)


def shown(body: bytes) -> list[dict[str, Any]]:
    """The loads, without the time for which they have been running."""
    read_loading(body)
    return [{name: value for name, value in load.items() if name != "elapsed_ms"} for load in json.loads(body)]


@asynccontextmanager
async def load_under_way(host: ScriptedHost, model_id: str) -> AsyncIterator[None]:
    body = {"model_id": model_id, "harness": "scripted"}
    async with host.client.open("POST", "/models/load", body):
        await wait_all_tasks_blocked()
        yield
        await host.registry.unload(model_id)


async def test_without_a_load_the_answer_is_an_empty_array() -> None:
    async with scripted_host() as host:
        reply = await host.client.get("/models/loading")
    assert (reply.status, reply.headers["content-type"], reply.body) == (200, "application/json", b"[]")


@pytest.mark.parametrize(
    ("progress", "wire"),
    [
        (LoadProgress(stage=LoadStage.VERIFYING), {"stage": "verifying"}),
        (LoadProgress(stage=LoadStage.LOADING, fraction=0.0), {"stage": "loading", "fraction": 0.0}),
        (
            DOWNLOADING,
            {
                "stage": "downloading",
                "fraction": 0.25,
                "file": "a.gguf",
                "bytes": 10,
                "total_bytes": 40,
                "bytes_per_s": 5,
                "eta_s": 6,
            },
        ),
        (
            LoadProgress(stage=LoadStage.DOWNLOADING, fraction=float("nan"), bytes=-1, bytes_per_s=-1, eta_s=-1),
            {"stage": "downloading", "fraction": 0.0, "bytes": 0, "bytes_per_s": 0, "eta_s": 0},
        ),
    ],
)
async def test_a_load_shows_what_is_known_of_it_and_health_shows_the_same(
    progress: LoadProgress, wire: dict[str, Any]
) -> None:
    script = ScriptedModel(stages=(progress,), may_load=anyio.Event())
    async with scripted_host({A: script}) as host, load_under_way(host, A):
        listed = (await host.client.get("/models/loading")).body
        health = (await host.client.get("/health")).body
    read_health(health)
    assert shown(listed) == shown(json.dumps(json.loads(health)["loading"]).encode())
    assert shown(listed) == [{"model_id": A, "progress": wire}]


async def test_loads_are_sent_as_events_from_the_first_moment_with_lf_alone() -> None:
    script = ScriptedModel(stages=(DOWNLOADING,), may_load=anyio.Event())
    async with (
        scripted_host({A: script}) as host,
        load_under_way(host, A),
        host.client.open("GET", "/models/loading/events") as exchange,
    ):
        event = await exchange.chunk()
        assert exchange.headers == SSE_HEADERS
        assert event is not None
        name, data, end = event.split(b"\n", 2)
        assert (name, data[:6], end) == (b"event: loading", b"data: ", b"\n")
        assert b"\r" not in event
        assert shown(data[6:]) == shown((await host.client.get("/models/loading")).body)


async def test_a_client_that_follows_loads_may_leave_at_any_moment() -> None:
    async with scripted_host() as host, host.client.open("GET", "/models/loading/events") as exchange:
        assert await exchange.chunk() == b"event: loading\ndata: []\n\n"
        exchange.hang_up()
        await exchange.returned.wait()
        assert exchange.error is None


# An id has an organisation and a name, and only two questions are asked about it, so the two routes take no id away.
@pytest.mark.parametrize("model_id", ["loading/events", "loading/a", "org/loading", "loading/events/endpoint"])
@pytest.mark.parametrize("slash", ["/", "%2F"])
async def test_models_with_the_names_of_these_routes_still_answer(model_id: str, slash: str) -> None:
    path = model_id.replace("/", slash)
    async with scripted_host(resident=[model_id]) as host:
        assert (await host.client.get(f"/models/{path}/endpoint")).json() == {"url": "http://localhost:13131"}
        assert (await host.client.get(f"/models/{path}/capabilities")).json() == {"capabilities": ["text"]}


@pytest.mark.parametrize("path", ["/models/loading/events", "/models/loading%2Fevents"])
async def test_a_path_that_could_mean_the_events_or_a_model_of_that_name_means_the_events(path: str) -> None:
    async with scripted_host(resident=["loading/events"]) as host, host.client.open("GET", path) as exchange:
        assert await exchange.chunk() == b"event: loading\ndata: []\n\n"


@pytest.mark.parametrize("question", ["endpoint", "capabilities"])
async def test_loading_is_not_the_id_of_a_model(question: str) -> None:
    async with scripted_host() as host:
        assert (await host.client.get(f"/models/loading/{question}")).status == 404
