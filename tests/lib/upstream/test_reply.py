"""One request to a server that does everything wrong, over a real socket."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import ByteStream

from neuron_lib.admission import AdmissionRules
from neuron_lib.errors import (
    EngineDead,
    EngineFailed,
    InvalidRequest,
    NeuronError,
    Overloaded,
    OverloadReason,
    PromptTooLong,
    RequestLoop,
    ShuttingDown,
    SuspectRequest,
    UpstreamRefused,
)
from neuron_lib.supervision.restart_policy import RestartPolicy
from neuron_lib.supervision.supervisor import supervise
from neuron_lib.types import (
    Chat,
    Embed,
    Embedding,
    EventBeforeEnd,
    Finished,
    FinishReason,
    GenerationEvent,
    Started,
    Task,
    TextDelta,
    Usage,
)
from neuron_lib.upstream import reply
from neuron_lib.upstream.client import UpstreamLimits
from neuron_lib.upstream.facts import UpstreamFacts
from neuron_lib.upstream.model import UpstreamModel
from tests.fakes.raw_upstream import Answer, Life, Lives, RawUpstream, answer, raw_upstream, sse

pytestmark = pytest.mark.anyio

CHAT = Chat(model_id="org/model", messages=({"role": "user", "content": "Hi"},), request_id="r1")
WHOLE = Chat(model_id="org/model", messages=({"role": "user", "content": "Hi"},), whole=True)
KEY = "sesame"
HELLO = '{"choices":[{"index":0,"delta":{"content":"Hello"}}]}'
END = '{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":1}}'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PATIENT = UpstreamLimits(pauses_s=(0.001, 0.002), news_s=0.001)
QUICK = UpstreamLimits(silence_s=0.02, pauses_s=(0.001,), news_s=0.001)
SAID = [
    Started(prompt_tokens=2),
    TextDelta("Hello"),
    Finished(reasons=(FinishReason.STOP,), usage=Usage(prompt_tokens=2, completion_tokens=1)),
]


def chunked(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(text: str) -> bytes:
    return chunked(f"data: {text}\n\n".encode())


def says(data: bytes) -> Answer:
    """Send this, and hang up."""

    async def act(stream: ByteStream, _request: bytes) -> None:
        await stream.send(data)

    return act


def says_and_waits(data: bytes) -> Answer:
    """Send this, and then nothing until the other end hangs up."""

    async def act(stream: ByteStream, _request: bytes) -> None:
        if data:
            await stream.send(data)
        await stream.receive()

    return act


class Rig:
    def __init__(self, upstream: RawUpstream, lives: Lives, model: UpstreamModel[Life]) -> None:
        self.upstream = upstream
        self.lives = lives
        self.model = model

    async def read(self, task: Task = CHAT) -> list[GenerationEvent]:
        async with self.model.run(task) as reply:
            return [each async for each in reply]


@asynccontextmanager
async def rig(
    folder: Path,
    *answers: bytes | Answer,
    limits: UpstreamLimits = PATIENT,
    seats: int = 2,
    waiting: int = 8,
    facts: UpstreamFacts | None = None,
    outlives: bool = False,
) -> AsyncIterator[Rig]:
    policy = RestartPolicy(first_pause_s=0.0, longest_pause_s=0.0, most_deaths=9)
    with anyio.fail_after(60):
        async with raw_upstream(folder, *answers) as upstream:
            lives = Lives(upstream, limits=limits, facts=facts or UpstreamFacts(), token=KEY)
            async with supervise(lives.start, model_id="org/model", policy=policy) as supervisor:
                rules = AdmissionRules(max_in_flight=seats, max_queue_depth=waiting, max_wait_s=10.0)
                model = UpstreamModel(supervisor, harness_name="mine", rules=rules)
                yield Rig(upstream, lives, model)
                if not outlives:
                    load = model.load()
                    assert (load.in_flight, load.queue_depth) == (0, 0)
                    assert not any(life.client.at_work for life in lives.all)


async def test_a_reply_is_what_the_server_says(tmp_path: Path) -> None:
    async with rig(tmp_path, sse(HELLO, END)) as it:
        assert (await it.read())[1:] == SAID[1:]
        request = it.upstream.requests[0].decode().lower()
        assert "post /v1/chat/completions http/1.1" in request
        assert "authorization: bearer sesame" in request
        assert "x-request-id: r1" in request
        assert "x-neuron-hops: 1" in request
        assert "accept-encoding: identity" in request
        assert json.loads(it.upstream.body())["model"] == "theirs"
        assert KEY not in repr(it.model) + repr(it.lives.all[0].client.address)


async def test_a_connection_is_used_again_after_a_reply_that_ended_well(tmp_path: Path) -> None:
    whole = HEAD + event(HELLO) + event(END) + event("[DONE]") + b"0\r\n\r\n"

    async def twice(stream: ByteStream, _request: bytes) -> None:
        await stream.send(whole)
        await stream.receive()
        await stream.send(whole)

    async with rig(tmp_path, twice) as it:
        assert (await it.read())[1:] == SAID[1:]
        assert (await it.read())[1:] == SAID[1:]
        assert it.upstream.connections == 1


async def test_an_idle_connection_that_was_closed_is_replaced(tmp_path: Path) -> None:
    whole = HEAD + event(HELLO) + event(END) + event("[DONE]") + b"0\r\n\r\n"
    async with rig(tmp_path, says(whole)) as it:
        assert (await it.read())[1:] == SAID[1:]
        assert (await it.read())[1:] == SAID[1:]
        assert it.upstream.connections == 2


async def test_what_comes_unasked_on_an_idle_connection_is_no_answer(tmp_path: Path) -> None:
    whole = HEAD + event(HELLO) + event(END) + event("[DONE]") + b"0\r\n\r\n"
    is_idle, has_come = anyio.Event(), anyio.Event()

    async def hurried(stream: ByteStream, _request: bytes) -> None:
        await stream.send(whole)
        await is_idle.wait()
        await stream.send(answer(408, ""))
        has_come.set()

    async with rig(tmp_path, hurried, says(whole)) as it:
        assert (await it.read())[1:] == SAID[1:]
        is_idle.set()
        await has_come.wait()
        assert (await it.read())[1:] == SAID[1:]
        assert (len(it.upstream.requests), it.upstream.connections) == (2, 2)


async def test_a_refusal_whose_words_do_not_come_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply, "_REFUSAL_LIMIT_S", 0.01)
    async with rig(tmp_path, says_and_waits(b"HTTP/1.1 429 Any\r\ncontent-length: 9\r\n\r\n")) as it:
        with pytest.raises(Overloaded):
            await it.read()


async def test_a_reply_that_did_not_come_as_a_stream_is_read_too(tmp_path: Path) -> None:
    message = {"role": "assistant", "content": "Hello"}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": json.loads(END)["usage"]}
    async with rig(tmp_path, answer(200, json.dumps(body))) as it:
        assert (await it.read())[1:] == SAID[1:]


async def test_leaving_hangs_up_and_frees_the_seat(tmp_path: Path) -> None:
    hung_up = anyio.Event()

    async def endless(stream: ByteStream, _request: bytes) -> None:
        await stream.send(HEAD + event(HELLO))
        try:
            await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            hung_up.set()

    async with rig(tmp_path, endless) as it:
        async with it.model.run(CHAT) as reply:
            assert await anext(aiter(reply)) == Started(prompt_tokens=reply.usage.prompt_tokens)
            assert it.model.load().in_flight == 1
        await hung_up.wait()


async def test_a_reply_is_handed_over_without_its_reader(tmp_path: Path) -> None:
    taken: list[EventBeforeEnd] = []

    def take(given: EventBeforeEnd) -> bool:
        taken.append(given)
        return len(taken) < 2

    async with rig(tmp_path, sse(HELLO, HELLO, HELLO, END)) as it, it.model.run(CHAT) as reply:
        reply.forward(take)
        given = [each async for each in reply]
    hello = TextDelta("Hello")
    assert (taken, given[1:]) == ([hello, hello], [hello, SAID[2]])


# --------------------------------------------------------------------------------------------------- what is a refusal


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, '{"error":{"message":"no","code":"x","param":"top_p"}}', InvalidRequest),
        (400, '{"error":{"message":"m","code":"context_length_exceeded","prompt_len":9,"max":5}}', PromptTooLong),
        (401, "", UpstreamRefused),
        (403, "<html>", UpstreamRefused),
        (404, '{"error":"no such model"}', UpstreamRefused),
        (204, "", UpstreamRefused),
        (301, "", UpstreamRefused),
        (418, "", InvalidRequest),
        (422, '{"detail":"no"}', InvalidRequest),
        (429, "", Overloaded),
        (500, '{"error":{"message":"no"}}', EngineFailed),
        (502, "<html>", Overloaded),
        (504, "<html>", EngineFailed),
        (503, '{"error":{"code":"model_loading"}}', Overloaded),
        (508, '{"error":{"code":"request_loop","hops":8}}', RequestLoop),
    ],
)
async def test_what_the_server_refuses_is_raised_before_the_first_event_and_not_asked_again(
    tmp_path: Path, status: int, body: str, error: type[NeuronError]
) -> None:
    async with rig(tmp_path, answer(status, body, headers="retry-after: 7\r\nlocation: http://elsewhere/\r\n")) as it:
        with pytest.raises(error) as caught:
            await it.read()
        assert len(it.upstream.requests) == 1
        if isinstance(caught.value, Overloaded):
            assert (caught.value.retry_after_s, caught.value.reason) == (7, OverloadReason.UPSTREAM)
        assert KEY not in str(caught.value)


async def test_a_server_that_quotes_the_key_does_not_show_it_to_clients(tmp_path: Path) -> None:
    body = json.dumps({"error": {"message": f"Authorization: Bearer {KEY} may not use top_p"}})
    async with rig(tmp_path, answer(400, body)) as it:
        with pytest.raises(InvalidRequest, match=r"Bearer \*\*\* may not") as caught:
            await it.read()
        assert KEY not in repr(caught.value)


async def test_a_page_instead_of_an_answer_is_a_refusal(tmp_path: Path) -> None:
    async with rig(tmp_path, answer(200, "<html>", kind="text/html")) as it:
        with pytest.raises(UpstreamRefused, match="text/html"):
            await it.read()


async def test_a_model_admits_as_many_as_it_may(tmp_path: Path) -> None:
    async with rig(tmp_path, says_and_waits(HEAD), seats=1, waiting=0) as it, it.model.run(CHAT):
        with pytest.raises(Overloaded) as caught:
            await it.read()
        assert caught.value.reason is OverloadReason.QUEUE_FULL
        with pytest.raises(InvalidRequest):
            await it.read(Chat(model_id="org/model", messages=CHAT.messages, choices=2))


async def test_who_waits_for_a_seat_is_refused_when_the_admission_is_closed(tmp_path: Path) -> None:
    answer_ = says_and_waits(HEAD)
    async with rig(tmp_path, answer_, seats=1) as it, it.model.run(CHAT), anyio.create_task_group() as tasks:
        tasks.start_soon(_refused, it)
        while not it.model.load().queue_depth:
            await anyio.lowlevel.checkpoint()
        it.model.close_admission(ShuttingDown)


async def _refused(it: Rig) -> None:
    with pytest.raises(ShuttingDown):
        await it.read()


# -------------------------------------------------------------------------------------------- what breaks in the middle


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 50_000,
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 banana\r\n\r\n",
        b"",
    ],
    ids=["no http", "endless head", "bad length", "bad status", "nothing"],
)
async def test_what_is_no_answer_is_tried_on_other_connections_and_then_refused(tmp_path: Path, data: bytes) -> None:
    async with rig(tmp_path, says(data)) as it:
        with pytest.raises(Overloaded) as caught:
            await it.read()
        assert caught.value.reason is OverloadReason.ENGINE_LOST
        assert it.upstream.connections == 3


@pytest.mark.parametrize(
    "data",
    [
        HEAD + event(HELLO),
        HEAD + b"zz\r\n",
        HEAD + event("no json"),
        HEAD + event('{"error":{"message":"out of memory"}}'),
        HEAD + event(HELLO) + b"0\r\n\r\n",
        HEAD + chunked(b"data: " + b"x" * (9 << 20)),
        sse(HELLO, "[DONE]"),
        answer(200, "{"),
    ],
    ids=["cut", "bad chunk", "garbage", "error", "no end", "endless line", "no reason", "half json"],
)
async def test_an_answer_that_breaks_off_is_a_failure_of_this_request(tmp_path: Path, data: bytes) -> None:
    async with rig(tmp_path, says(data)) as it:
        reply = it.model.run(CHAT)
        async with reply:
            for _ in range(2):  # and so it stays
                with pytest.raises(EngineFailed):
                    [each async for each in reply]
        assert len(it.upstream.requests) == 1


@pytest.mark.parametrize("data", [b"", HEAD, HEAD + event(HELLO), HEAD + event(HELLO) + b"ff\r\nhalf"])
async def test_a_server_that_falls_silent_does_not_hold_a_request(tmp_path: Path, data: bytes) -> None:
    async with rig(tmp_path, says_and_waits(data), limits=QUICK) as it:
        with pytest.raises(EngineFailed, match=r"silent|no answer"):
            await it.read()
        assert len(it.upstream.requests) == 1, "it may be at work, so it is not asked again"


async def test_a_reply_without_an_end_is_broken_off(tmp_path: Path) -> None:
    async def drips(stream: ByteStream, _request: bytes) -> None:
        await stream.send(HEAD)
        while True:
            await stream.send(chunked(b": still here\n\n"))

    limits = UpstreamLimits(silence_s=30.0, reply_s=0.1, news_s=0.001)
    async with rig(tmp_path, drips, limits=limits) as it:
        with pytest.raises(EngineFailed, match="took longer"):
            await it.read()


# -------------------------------------------------------------------------------------------- when the server is lost


async def test_a_request_is_made_by_the_next_life_of_the_server_if_nothing_was_given_out(tmp_path: Path) -> None:
    for number, (task, data) in enumerate([(CHAT, b""), (CHAT, HEAD), (WHOLE, HEAD + event(HELLO))]):
        folder = tmp_path / str(number)
        folder.mkdir()
        came = anyio.Event()

        async def dies(stream: ByteStream, _request: bytes, data: bytes = data, came: anyio.Event = came) -> None:
            await stream.send(data)
            came.set()
            await stream.receive()

        async with rig(folder, dies, sse(HELLO, END)) as it, anyio.create_task_group() as tasks:
            tasks.start_soon(_die_and_come_back, it, came)
            async with it.model.run(task) as reply:
                assert [each async for each in reply][-2:] == SAID[-2:]
                assert reply.retried
            death = it.lives.all[0].death
            assert death is not None
            assert death.requests == {1}


async def _die_and_come_back(it: Rig, came: anyio.Event) -> None:
    await came.wait()
    it.lives.die()


async def test_a_reply_that_has_begun_is_lost_with_its_server(tmp_path: Path) -> None:
    async with rig(tmp_path, says_and_waits(HEAD + event(HELLO))) as it:
        async with it.model.run(CHAT) as reply:
            events = aiter(reply)
            await anext(events)
            assert await anext(events) == TextDelta("Hello")
            it.lives.die()
            with pytest.raises(EngineDead, match="killed by the test"):
                await anext(events)
        assert len(it.upstream.requests) == 1


async def test_a_request_that_two_servers_died_of_is_not_sent_to_a_third_one(tmp_path: Path) -> None:
    came: list[bytes] = []
    async with rig(tmp_path, b"") as it:

        async def kills(stream: ByteStream, request: bytes) -> None:
            came.append(request)
            it.lives.die()
            await stream.receive()

        it.upstream.answers[:] = [kills]
        for _ in range(2):
            with pytest.raises(SuspectRequest):
                await it.read()
        assert len(came) == 2


async def test_a_reply_of_a_model_that_is_gone_raises_engine_dead(tmp_path: Path) -> None:
    async with rig(tmp_path, says_and_waits(HEAD), outlives=True) as it:
        reply = it.model.run(CHAT)
        await reply.__aenter__()
    with pytest.raises(EngineDead, match="unloaded"):
        [each async for each in reply]
    await reply.__aexit__(None, None, None)
    assert it.model.load().in_flight == 0


async def test_vectors_come_in_one_piece(tmp_path: Path) -> None:
    data = [{"index": 1, "embedding": [0.0, 1.0]}, {"index": 0, "embedding": [1.0, 0.0]}]
    body = json.dumps({"data": data, "usage": {"prompt_tokens": 4, "total_tokens": 4}})
    task = Embed(model_id="org/model", inputs=("a", "b"))
    async with rig(tmp_path, answer(200, body)) as it:
        events = await it.read(task)
        assert events[1:3] == [Embedding(1, (0.0, 1.0)), Embedding(0, (1.0, 0.0))]
    other = tmp_path / "other"
    other.mkdir()
    async with rig(other, answer(200, json.dumps({"data": data[:1]}))) as it:
        with pytest.raises(EngineFailed):
            await it.read(task)
