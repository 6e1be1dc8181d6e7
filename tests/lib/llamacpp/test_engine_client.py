"""What the daemon makes of frames; the engine at the other end is the test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import chain
from typing import Any

import anyio
import pytest
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from neuron_lib.engine.protocol import (
    Abort,
    Beat,
    Began,
    Broken,
    Cancel,
    Cancelled,
    ChatTask,
    Command,
    Delta,
    Done,
    Limits,
    Planned,
    Prepared,
    Refused,
    Report,
    StepEvents,
    Submit,
    Taken,
    command_decoder,
    encode_frame,
)
from neuron_lib.error_frames import to_frame
from neuron_lib.errors import (
    EngineDead,
    EngineFailed,
    InvalidGrammar,
    InvalidRequest,
    LoadFailed,
    NeuronError,
    Overloaded,
    OverloadReason,
    PromptTooLong,
    TemplateFailed,
)
from neuron_lib.llamacpp.engine_client import EngineClient, News
from neuron_lib.llamacpp.engine_watchdog import EngineWatchdog
from neuron_lib.supervision.death import Death
from neuron_lib.types import FinishReason, Sampling
from tests.fakes.turns import let_others_run

pytestmark = pytest.mark.anyio


class Heard:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.news: list[News | NeuronError] = []

    def hear(self, news: News) -> None:
        self.news.append(news)

    def fail(self, error: NeuronError) -> None:
        self.news.append(error)


class Engine:
    """The other end of a client: what it is told, and what it says."""

    def __init__(
        self,
        client: EngineClient,
        commands: MemoryObjectReceiveStream[bytes],
        reports: MemoryObjectSendStream[bytes],
    ) -> None:
        self.client = client
        self._commands = commands
        self._reports = reports
        self._decoder = command_decoder()

    async def told(self) -> list[Command]:
        """The commands since the last call."""
        frames: list[bytes] = []
        await let_others_run()
        while self._commands.statistics().current_buffer_used or self._commands.statistics().tasks_waiting_send:
            frames.append(await self._commands.receive())
            await let_others_run()
        return list(chain.from_iterable(self._decoder.feed(frame) for frame in frames))

    async def say(self, *reports: Report) -> None:
        for report in reports:
            await self._reports.send(encode_frame(report))
        await let_others_run()


@asynccontextmanager
async def engine() -> AsyncIterator[Engine]:
    client = EngineClient(
        model_id="o/a",
        on_progress=lambda _fraction: None,
        watchdog=EngineWatchdog(stall_limit_s=300, silence_limit_s=300),
    )
    send_commands, commands = anyio.create_memory_object_stream[bytes](0)
    reports, read_reports = anyio.create_memory_object_stream[bytes](0)
    with send_commands, commands, reports, read_reports:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.write_commands, send_commands)
            tasks.start_soon(client.read_reports, read_reports)
            yield Engine(client, commands, reports)
            tasks.cancel_scope.cancel()


def submit(request: int, **template_kwargs: Any) -> Submit:
    return Submit(
        request=request,
        task=ChatTask(template_kwargs=template_kwargs),
        sampling=Sampling(temperature=0, seed=0),
        limits=Limits(prompt_tokens=1, reply_tokens=1),
    )


def done(request: int, *, choice: int = 0) -> Done:
    return Done(
        request=request,
        choice=choice,
        reason=FinishReason.STOP,
        text="",
        prompt_tokens=1,
        completion_tokens=1,
        prefill_s=0.0,
        decode_s=0.0,
    )


def prepared(request: int) -> Prepared:
    return Prepared(request=request, prompt_tokens=1)


def events(*events: Delta | Done | Broken) -> StepEvents:
    return StepEvents(1, events)


async def test_a_listener_hears_of_its_own_request_in_order_until_that_has_ended() -> None:
    async with engine() as other:
        first, second = Heard(), Heard()
        other.client.submit(submit(1), first)
        other.client.submit(submit(2), second)
        assert await other.told() == [submit(1), submit(2)]
        news: list[Any] = [prepared(1), Began(1, replies=2), Delta(1, "a"), done(1, choice=1), done(1)]
        await other.say(Taken((1,)), news[0], news[1], events(*news[2:4], Delta(2, "b")), events(news[4]), prepared(1))
        assert first.news == news
        assert second.news == [Delta(2, "b")]
        other.client.leave(1)  # it has ended
        assert await other.told() == []


BUSY = Overloaded("others come first", reason=OverloadReason.QUEUE_FULL, retry_after_s=4)


@pytest.mark.parametrize(
    ("report", "error", "fields"),
    [
        (Refused(1, to_frame(TemplateFailed("no"))), TemplateFailed, {"message": "no"}),
        (Refused(1, to_frame(InvalidGrammar("no", param="regex"))), InvalidGrammar, {"param": "regex"}),
        (Refused(1, to_frame(InvalidRequest("no", param="x"))), InvalidRequest, {"param": "x"}),
        (Refused(1, to_frame(InvalidRequest("no"))), InvalidRequest, {"param": "messages"}),
        (Refused(1, to_frame(BUSY)), Overloaded, {"retry_after_s": 4, "reason": OverloadReason.QUEUE_FULL}),
        (
            Refused(1, to_frame(PromptTooLong(prompt_tokens=9, limit=8))),
            PromptTooLong,
            {"fields": {"prompt_len": 9, "max": 8}},
        ),
        (events(Broken(request=1, message="no cells")), EngineFailed, {}),
        (events(Broken(request=1, message="no", param="regex")), InvalidGrammar, {"param": "regex"}),
    ],
)
async def test_what_ends_a_request_is_the_error_that_it_was(
    report: Report, error: type[NeuronError], fields: dict[str, object]
) -> None:
    async with engine() as other:
        heard = Heard()
        other.client.submit(submit(1), heard)
        await other.told()
        await other.say(report, prepared(1))
        (told,) = heard.news
        assert type(told) is error
        assert {name: getattr(told, name) for name in fields} == fields


async def test_requests_that_cannot_be_sent_at_once_are_sent_in_the_order_of_their_numbers() -> None:
    async with engine() as other:
        for request in (3, 1, 2):
            other.client.submit(submit(request), Heard())
        assert await other.told() == [submit(1), submit(2), submit(3)]


async def test_a_request_that_is_left_before_it_was_sent_is_never_sent() -> None:
    async with engine() as other:
        for request in (1, 2, 3):
            other.client.submit(submit(request), Heard())
        other.client.leave(2)
        assert not other.client.may_work_on(2)
        assert await other.told() == [submit(1), submit(3)]


async def test_a_request_that_was_sent_is_cancelled_when_it_is_left_and_not_heard_of_again() -> None:
    async with engine() as other:
        heard = Heard()
        other.client.submit(submit(1), heard)
        await other.told()
        assert other.client.may_work_on(1)
        other.client.leave(1)
        other.client.leave(1)
        assert await other.told() == [Cancel(1)]
        await other.say(Began(1), events(Delta(1, "a")))
        assert heard.news == []


async def test_other_commands_go_before_requests() -> None:
    async with engine() as other:
        other.client.submit(submit(1), Heard())
        other.client.post(Abort())
        assert await other.told() == [Abort(), submit(1)]


@pytest.mark.parametrize("unsendable", [1 << 70, "\ud800", "x" * (17 << 20)], ids=["huge", "half", "long"])
async def test_what_no_frame_can_hold_is_an_invalid_request_and_nothing_is_sent(unsendable: object) -> None:
    async with engine() as other:
        with pytest.raises(InvalidRequest):
            other.client.submit(submit(1, x=unsendable), Heard())
        assert await other.told() == []


REFUSED = Refused(1, to_frame(TemplateFailed("no")))
DELTA = events(Delta(1, "x", 1))


@pytest.mark.parametrize(
    ("history", "at_work"),
    [
        ([], set()),
        ([Taken((2,))], {2}),
        ([Taken((1, 2))], {1, 2}),
        ([Taken((1,)), Taken((2,))], {2}),
        ([Taken((1, 2)), prepared(1)], {2}),
        ([Taken((1, 2)), REFUSED], {2}),
        ([Taken((1,)), prepared(1)], set()),
        ([Taken((1,)), prepared(1), Began(1), Taken((3,))], {1, 3}),
        ([Taken((1,)), Cancelled(1)], set()),
        ([Began(1), Began(2), DELTA, Beat(step=1, in_flight=2, rss_bytes=1)], {1, 2}),
        ([Began(1), Began(2), events(done(1))], {2}),
        ([Began(1), Began(2), events(Broken(request=1, message="x"))], {2}),
        ([Began(1), Began(2), Cancelled(1)], {2}),
        ([Began(1, replies=2), events(done(1, choice=1))], {1}),
        ([Began(1, replies=2), events(done(1, choice=1), done(1))], set()),
        ([Began(1), events(done(1)), Cancelled(1)], set()),
    ],
)
async def test_an_engine_dies_with_what_it_said_it_was_working_on_whoever_listens(
    history: list[Report], at_work: set[int]
) -> None:
    deaths: list[Death] = []
    async with engine() as other:
        other.client.on_death = deaths.append
        await other.say(*history)
        other.client.die("killed by SIGSEGV")
    assert deaths == [Death("killed by SIGSEGV", frozenset(at_work))] == [other.client.death]


async def test_everybody_hears_of_a_death_after_it_was_taken_in_and_only_of_the_first() -> None:
    order: list[object] = []
    async with engine() as other:
        listeners = [Heard(), Heard()]
        for request, heard in enumerate(listeners):
            other.client.submit(submit(request), heard)
        other.client.on_death = lambda death: order.append([death.reason, *chain(*(each.news for each in listeners))])
        other.client.die("killed by SIGSEGV")
        other.client.die("again")
        other.client.bury("the model was unloaded")
        assert order == [["killed by SIGSEGV"]]
        assert [[getattr(error, "reason", None) for error in each.news] for each in listeners] == [
            ["killed by SIGSEGV"],
            ["killed by SIGSEGV"],
        ]
        assert (await other.client.wait_dead()).reason == "killed by SIGSEGV"
        with pytest.raises(EngineDead):
            other.client.submit(submit(9), Heard())


async def test_an_engine_that_is_unloaded_dies_of_nobody() -> None:
    async with engine() as other:
        deaths: list[Death] = []
        other.client.on_death = deaths.append
        heard = Heard()
        other.client.submit(submit(1), heard)
        await other.told()
        await other.say(Began(1))
        other.client.bury("the model was unloaded")
        assert other.client.death == Death("the model was unloaded", frozenset())
        assert isinstance(heard.news[-1], EngineDead)
    assert deaths == []


@pytest.mark.parametrize(
    ("planned", "words"),
    [((), "could not load the model: killed"), ((Planned(None),), "does not say how much memory")],
    ids=["before it planned", "as it cannot plan"],
)
async def test_who_waits_for_the_plan_of_an_engine_that_has_ended_is_told_why_there_is_none(
    planned: tuple[Report, ...], words: str
) -> None:
    async with engine() as other:
        await other.say(*planned)
        other.client.die("killed")
        with pytest.raises(LoadFailed, match=words):
            await other.client.wait_planned()
