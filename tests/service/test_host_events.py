"""`GET /events`: what happens on a host, as server-sent events."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

import msgspec
import pytest
from anyio import wait_all_tasks_blocked
from trio.testing import MockClock

from neuron_lib.errors import InvalidRequest
from neuron_lib.registry.event_log import EventLog, is_event_id
from neuron_lib.testing import ScriptedModel
from neuron_lib.types import (
    HostEvent,
    LoadProgress,
    LoadStage,
    ModelEvent,
    ModelPhase,
    ProgressEvent,
    RejectionEvent,
    ReplyEvent,
)
from neuron_service.access.entrance import EntranceRules
from neuron_service.access.keys import KeyRing, line_of, parse_keys
from neuron_service.access.networks import Networks
from neuron_service.access.scopes import needed_scope
from neuron_service.host_events import HostEventStream, place_asked_for
from tests.fakes.asgi_client import AsgiClient, Exchange
from tests.fakes.scripted_host import ScriptedHost, chat_body, scripted_host, spec

pytestmark = pytest.mark.anyio

A = "org/a"
ID = "0123abcd-7"
read_event = msgspec.json.Decoder(HostEvent).decode


@pytest.fixture
def clock() -> MockClock:
    return MockClock()


@pytest.fixture
def anyio_backend(clock: MockClock) -> tuple[str, dict[str, MockClock]]:
    return "trio", {"clock": clock}


def events_of(chunk: bytes | None) -> list[HostEvent]:
    """The events of a chunk. Each has its id in the line that a browser reads too."""
    assert chunk is not None
    *blocks, end = chunk.split(b"\n\n")
    assert end == b""
    events = []
    for block in blocks:
        id_, data = block.split(b"\n")
        event = read_event(data.removeprefix(b"data: "))
        assert id_ == b"id: " + event.id.encode()
        events.append(event)
    return events


@asynccontextmanager
async def following(
    host: ScriptedHost, query: str = "", headers: Mapping[str, str] | None = None
) -> AsyncIterator[Exchange]:
    async with host.client.open("GET", f"/events{query}", headers=headers or {}) as exchange:
        begin = await exchange.chunk()
        assert begin is not None
        assert re.fullmatch(rb"(id: [0-9a-f]{8}-\d+\n)?retry: 2000\n\n", begin)
        assert exchange.headers["content-type"] == "text/event-stream; charset=utf-8"
        yield exchange


async def test_what_happens_is_sent_as_it_happens() -> None:
    async with scripted_host(resident=[A]) as host, following(host) as exchange:
        await host.client.post("/v1/chat/completions", chat_body(A))
        (event,) = events_of(await exchange.chunk())
    assert isinstance(event, ReplyEvent)
    assert event.completion_tokens == 4


async def test_a_refused_request_is_sent_without_its_content() -> None:
    async with scripted_host({A: ScriptedModel(n_ctx=7)}, resident=[A]) as host, following(host) as exchange:
        await host.client.post("/v1/chat/completions", chat_body(A, content="my secret"))
        chunk = await exchange.chunk()
    (event,) = events_of(chunk)
    assert isinstance(event, RejectionEvent)
    assert event.code == "context_length_exceeded"
    assert chunk is not None
    assert b"secret" not in chunk


async def test_events_of_a_quarter_of_a_second_come_together_and_progress_is_merged(clock: MockClock) -> None:
    log = EventLog()
    client = AsgiClient(HostEventStream(log.read()))

    def report(done: int) -> None:
        progress = LoadProgress(stage=LoadStage.DOWNLOADING, bytes=done)
        log.add(partial(ProgressEvent, model_id=A, progress=progress, elapsed_ms=0))

    async with client.open("GET", "/events") as exchange:
        await exchange.chunk()
        await wait_all_tasks_blocked()
        for done in range(100):
            report(done)
            await wait_all_tasks_blocked()
        log.add(partial(ModelEvent, model_id=A, phase=ModelPhase.SERVING))
        (first,) = events_of(await exchange.chunk())
        clock.jump(0.24)
        await wait_all_tasks_blocked()
        assert exchange.is_silent()
        clock.jump(0.01)
        merged, last = events_of(await exchange.chunk())
    told = [event.progress.bytes for event in (first, merged) if isinstance(event, ProgressEvent)]
    assert told == [0, 99]
    assert isinstance(last, ModelEvent)


@pytest.mark.parametrize("by_header", [False, True])
async def test_a_client_that_comes_back_gets_what_it_has_missed(*, by_header: bool) -> None:
    async with scripted_host() as host:
        async with following(host) as exchange:
            await host.registry.load(spec(A))
            seen = events_of(await exchange.chunk())
        await host.registry.unload(A)
        # A browser sends its header with the address of its first request.
        query, headers = (
            ("?after=start", {"last-event-id": seen[-1].id}) if by_header else (f"?after={seen[-1].id}", {})
        )
        async with following(host, query, headers) as exchange:
            missed = events_of(await exchange.chunk())
    phases = [event.phase for event in seen + missed if isinstance(event, ModelEvent)]
    assert phases == ["loading", "serving", "draining", "closing", "gone"]
    assert phases[-1] not in [event.phase for event in seen if isinstance(event, ModelEvent)]


async def test_a_client_that_got_no_event_knows_where_to_go_on(clock: MockClock) -> None:
    async with scripted_host() as host:
        async with host.client.open("GET", "/events") as exchange:
            begin = await exchange.chunk()
        assert begin is not None
        await host.registry.load(spec(A))
        id_ = begin.partition(b"\n")[0].removeprefix(b"id: ").decode()
        async with following(host, headers={"last-event-id": id_}) as exchange:
            missed = events_of(await exchange.chunk())
    assert [event.phase for event in missed if isinstance(event, ModelEvent)] == ["loading", "serving"]


async def test_a_client_that_has_missed_events_and_was_not_told_so_keeps_the_id_that_it_has() -> None:
    client = AsgiClient(HostEventStream(EventLog().read(ID)))
    async with client.open("GET", "/events") as exchange:
        assert await exchange.chunk() == b"retry: 2000\n\n"


@pytest.mark.parametrize("path", ["/events", "/models/loading/events"])
async def test_a_stream_ends_when_the_key_of_its_client_is_revoked_and_no_other_one_does(path: str) -> None:
    keys = [line_of(name, ["metrics"], f"neuron-{name}") for name in ("one", "two")]

    def let_in(*lines: str) -> EntranceRules:
        return EntranceRules(
            trusted=Networks.of((), own_uid=1), keys=KeyRing(parse_keys("\n".join(lines), place="keys"))
        )

    async with scripted_host() as host:
        host.real.entrance.replace(let_in(*keys))
        one, two = ({"authorization": f"Bearer neuron-{name}"} for name in ("one", "two"))
        async with (
            host.client.open("GET", path, headers=one) as revoked,
            host.client.open("GET", path, headers=two) as kept,
        ):
            assert await revoked.chunk()
            assert await kept.chunk()
            host.real.entrance.replace(let_in(keys[1]))
            while await revoked.chunk() is not None:  # what had happened before
                pass
            await revoked.returned.wait()
            await wait_all_tasks_blocked()
            assert not kept.returned.is_set()


async def test_a_client_may_ask_for_all_that_is_kept() -> None:
    async with scripted_host(resident=[A]) as host, following(host, "?after=start") as exchange:
        events = events_of(await exchange.chunk())
    assert [event.phase for event in events if isinstance(event, ModelEvent)] == ["loading", "serving"]


async def test_a_client_of_an_earlier_process_is_told_that_it_missed_events() -> None:
    async with scripted_host() as host, following(host, headers={"last-event-id": ID}) as exchange:
        events = events_of(await exchange.chunk())
    assert [type(event).__name__ for event in events][:1] == ["GapEvent"]


@pytest.mark.parametrize(
    ("query", "headers", "param"),
    [("?after=banana", {}, "after"), ("", {"last-event-id": "banana"}, "Last-Event-ID")],
)
async def test_what_is_no_id_is_refused_by_name(query: str, headers: dict[str, str], param: str) -> None:
    async with scripted_host() as host:
        reply = await host.client.request("GET", f"/events{query}", headers=headers)
    assert reply.status == 400
    assert reply.json()["error"]["param"] == param
    assert "start" in reply.json()["error"]["message"]


async def test_a_comment_is_sent_after_fifteen_seconds_of_silence(clock: MockClock) -> None:
    client = AsgiClient(HostEventStream(EventLog().read()))
    async with client.open("GET", "/events") as exchange:
        await exchange.chunk()
        for _ in range(2):
            for seconds in (14.0, 1.0):
                await wait_all_tasks_blocked()
                assert exchange.is_silent()
                clock.jump(seconds)
            assert await exchange.chunk() == b":\n\n"


async def test_a_client_may_leave_at_any_moment() -> None:
    async with scripted_host() as host, following(host) as exchange:
        exchange.hang_up()
        await exchange.returned.wait()
        assert exchange.error is None


async def test_the_stream_ends_after_the_last_event_of_a_registry_that_has_been_left(clock: MockClock) -> None:
    log = EventLog()
    async with AsgiClient(HostEventStream(log.read())).open("GET", "/events") as exchange:
        await exchange.chunk()
        await wait_all_tasks_blocked()
        log.add(partial(ModelEvent, model_id=A, phase=ModelPhase.GONE))
        log.close()
        assert events_of(await exchange.chunk())
        await wait_all_tasks_blocked()
        clock.jump(0.25)
        assert await exchange.chunk() is None
        await exchange.returned.wait()


async def test_head_does_not_follow_the_events() -> None:
    async with scripted_host() as host:
        head = await host.client.request("HEAD", "/events")
    assert (head.status, head.body) == (200, b"")


def test_a_key_needs_the_scope_of_what_was_counted() -> None:
    assert needed_scope("GET", "/events") == needed_scope("GET", "/metrics") == "metrics"


def test_the_place_of_the_header_counts_more_than_that_of_the_address() -> None:
    assert place_asked_for(last_event_id=ID, after="start") == ID
    assert place_asked_for(last_event_id="", after="start") == "start"
    assert place_asked_for(last_event_id=None, after=None) is None


@pytest.mark.parametrize("text", ["a" * 100_000, "0123abcd-", "\x00", "START"])
def test_a_place_of_another_form_is_refused_without_a_quote(text: str) -> None:
    assert not is_event_id(text)
    with pytest.raises(InvalidRequest) as refused:
        place_asked_for(last_event_id=text, after=None)
    assert text not in refused.value.message
