"""What a registry tells of each reply that was entered and has ended."""

import logging
from collections.abc import Awaitable, Callable

import anyio
import pytest
from msgspec.structs import replace

from neuron_lib import (
    EndedReply,
    Finished,
    FinishReason,
    ModelNotLoaded,
    Principal,
    PromptTooLong,
    Registry,
    ReplyOutcome,
    ShuttingDown,
    Started,
    TextDelta,
    Usage,
)
from neuron_lib.errors import EngineFailed, InvalidGrammar
from neuron_lib.harness import ForwardingReply
from neuron_lib.testing import ScriptedHarness, ScriptedModel
from neuron_lib.types import Detokenize, EventBeforeEnd, Task, Tokenize
from tests.fakes.registry_callers import Caller, reply_text, request, spec
from tests.fakes.turns import let_others_run

pytestmark = pytest.mark.anyio

ALICE = Principal(account_id="alice", key_id="k1")


class Host:
    """A registry with one model that follows a script, the replies that have ended, and a clock that is set by hand."""

    def __init__(self, script: ScriptedModel) -> None:
        self.ended: list[EndedReply] = []
        self.now_s = 100.0
        self.script = script
        self.harness = ScriptedHarness({"o/a:Q4_K_M": script})
        self.registry = Registry([self.harness], on_reply=self.ended.append, clock=lambda: self.now_s)

    async def load(self) -> None:
        await self.registry.load(spec("o/a:Q4_K_M"))


async def test_a_finished_reply_is_told_once_with_its_cost_and_its_times() -> None:
    may_prepare, may_speak = anyio.Event(), anyio.Event()
    host = Host(ScriptedModel(may_prepare=may_prepare, may_speak=may_speak, retried=True))

    async def read() -> None:
        async with host.registry.chat(replace(request("o/a"), principal=ALICE)) as reply:
            assert [event async for event in reply]
            host.now_s += 4.0
            assert host.ended == []

    async with host.registry:
        await host.load()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await let_others_run()
            host.now_s += 1.0
            may_prepare.set()
            await let_others_run()
            host.now_s += 2.0
            may_speak.set()
    assert host.ended == [
        EndedReply(
            model_id="o/a:Q4_K_M",
            outcome=ReplyOutcome.FINISHED,
            error=None,
            finish_reasons=(FinishReason.STOP,),
            usage=Usage(prompt_tokens=7, completion_tokens=4),
            retried=True,
            principal=ALICE,
            queue_s=1.0,
            first_event_s=3.0,
            total_s=7.0,
        )
    ]


async def test_an_event_that_is_forwarded_is_the_first_event_too() -> None:
    may_speak = anyio.Event()
    host, taken = Host(ScriptedModel(may_speak=may_speak)), list[EventBeforeEnd]()

    def take(event: EventBeforeEnd) -> bool:
        host.now_s += 1.0
        taken.append(event)
        return True

    async with host.registry:
        await host.load()
        may_speak.set()
        async with host.registry.chat(request("o/a")) as reply:
            assert isinstance(reply, ForwardingReply)
            reply.forward(take)
            read = [type(event) for event in [event async for event in reply]]
    assert (len(taken), read) == (4, [Started, Finished])
    assert [ended.first_event_s for ended in host.ended] == [0.0]


async def leave_at_once(registry: Registry) -> None:
    async with registry.chat(request("o/a")):
        pass


async def leave_after_the_first_text(registry: Registry) -> None:
    async with registry.chat(request("o/a")) as reply:
        async for event in reply:
            if isinstance(event, TextDelta):
                break


async def fail_while_reading(registry: Registry) -> None:
    with pytest.raises(ZeroDivisionError):
        async with registry.chat(request("o/a")):
            raise ZeroDivisionError


async def be_cancelled(registry: Registry) -> None:
    with anyio.CancelScope() as scope:
        async with registry.chat(request("o/a")):
            scope.cancel()
            await anyio.sleep_forever()


@pytest.mark.parametrize(
    ("leave", "tokens"),
    [(leave_at_once, 0), (leave_after_the_first_text, 1), (fail_while_reading, 0), (be_cancelled, 0)],
)
async def test_a_reply_whose_reader_leaves_before_the_end_is_abandoned_and_costs_what_it_has_cost(
    leave: Callable[[Registry], Awaitable[None]], tokens: int
) -> None:
    host = Host(ScriptedModel())
    async with host.registry:
        await host.load()
        await leave(host.registry)
    (ended,) = host.ended
    assert (ended.outcome, ended.error, ended.finish_reasons) == (ReplyOutcome.ABANDONED, None, ())
    assert ended.usage == Usage(prompt_tokens=7, completion_tokens=tokens)
    assert (ended.first_event_s is not None) is (tokens > 0)


@pytest.mark.parametrize(
    ("error", "code"),
    [(EngineFailed("boom"), EngineFailed.code), (InvalidGrammar("too complex"), InvalidGrammar.code)],
)
async def test_a_reply_that_fails_is_told_with_the_code_of_its_error(error: EngineFailed, code: str) -> None:
    host = Host(ScriptedModel(reply=["a", error]))
    async with host.registry:
        await host.load()
        with pytest.raises(type(error)):
            await reply_text(host.registry, "o/a")
    (ended,) = host.ended
    assert (ended.outcome, ended.error, ended.usage.completion_tokens) == (ReplyOutcome.FAILED, code, 1)


async def test_a_reply_that_ends_with_its_host_has_not_lost_its_engine() -> None:
    host = Host(ScriptedModel(may_speak=anyio.Event()))
    async with anyio.create_task_group() as tasks, host.registry:
        await host.load()
        tasks.start_soon(Caller(host.registry).chat, "o/a")
        await let_others_run()
    (ended,) = host.ended
    assert (ended.outcome, ended.error) == (ReplyOutcome.FAILED, ShuttingDown.code)


async def test_a_request_that_was_refused_is_no_reply() -> None:
    host = Host(ScriptedModel(prompt_tokens=2000, n_ctx=1024))
    async with host.registry:
        await host.load()
        with pytest.raises(PromptTooLong):
            await reply_text(host.registry, "o/a")
        with pytest.raises(ModelNotLoaded):
            await reply_text(host.registry, "o/other")
    assert host.ended == []


async def test_what_the_observer_raises_is_logged_and_does_not_reach_the_reply(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_: EndedReply) -> None:
        raise ZeroDivisionError

    async with Registry([ScriptedHarness()], on_reply=fail) as registry:
        await registry.load(spec())
        assert await reply_text(registry) == "Hello, world!"
        assert registry.loads()[0].in_flight == 0
    assert [(record.levelno, vars(record)["model_id"]) for record in caplog.records] == [(logging.ERROR, "o/a")]


async def test_who_takes_the_account_of_a_reply_gets_it_first_and_instead_of_a_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="neuron_lib.registry.reply_readers")
    told: list[tuple[str, EndedReply]] = []
    async with Registry([ScriptedHarness()], on_reply=lambda ended: told.append(("everybody", ended))) as registry:
        await registry.load(spec())
        task = replace(request("o/a"), request_id="mine")
        async with registry.run(task, on_account=lambda ended: told.append(("caller", ended))) as reply:
            assert [event async for event in reply]
        assert [(who, ended.request_id) for who, ended in told] == [("caller", "mine"), ("everybody", "mine")]
        assert caplog.records == []
        async with registry.run(task) as reply:
            assert [event async for event in reply]
    (line,) = caplog.records
    assert vars(line)["request_id"] == "mine"


@pytest.mark.parametrize("task", [Tokenize(model_id="o/a", prompt="a b"), Detokenize(model_id="o/a", tokens=(1, 2))])
async def test_the_account_of_a_task_that_only_counts_tokens_says_that_it_had_no_seat(task: Task) -> None:
    told: list[bool] = []
    async with Registry([ScriptedHarness()], on_reply=lambda ended: told.append(ended.had_seat)) as registry:
        await registry.load(spec())
        for each in (task, request("o/a")):
            async with registry.run(each) as reply:
                assert [event async for event in reply]
    assert told == [False, True]


async def test_what_the_taker_of_an_account_raises_keeps_nothing_from_the_observer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_: EndedReply) -> None:
        raise ZeroDivisionError

    ended: list[EndedReply] = []
    async with Registry([ScriptedHarness()], on_reply=ended.append) as registry:
        await registry.load(spec())
        async with registry.run(request("o/a"), on_account=fail) as reply:
            assert [event async for event in reply]
    assert len(ended) == 1
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
