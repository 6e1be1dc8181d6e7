"""What a registry tells of itself as it happens: `Registry.events`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import anyio
import pytest
from anyio import wait_all_tasks_blocked
from msgspec.structs import replace
from trio.testing import MockClock

from neuron_lib import (
    ActivationTracker,
    HostEvent,
    HostState,
    HostStateEvent,
    LoadFailed,
    LoadProgress,
    LoadStage,
    ModelEvent,
    ModelPhase,
    Principal,
    ProgressEvent,
    PromptTooLong,
    Registry,
    RejectionEvent,
    ReloadEvent,
    ReplyEvent,
    ReplyOutcome,
    RestartEvent,
)
from neuron_lib.registry.residency_rules import ResidencyRules
from neuron_lib.testing import ScriptedHarness, ScriptedModel
from neuron_lib.types import Reload, Tokenize
from tests.fakes.registry_callers import Caller, reply_text, request, spec

pytestmark = pytest.mark.anyio

A = "o/a"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, MockClock]]:
    """With a clock that goes on as soon as all tasks wait: what a harness does by itself is seen each second."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}


Kind = TypeVar("Kind", bound=HostEvent)


@dataclass
class Host:
    harness: ScriptedHarness
    registry: Registry
    events: list[HostEvent] = field(default_factory=list)

    async def follow(self) -> None:
        async for event in self.registry.events("start"):
            self.events.append(event)

    def of_model(self, model_id: str = A) -> list[str]:
        """What was told of a model, in brief."""
        return [brief for event in self.events if (brief := _brief(event, model_id))]

    def of_kind(self, kind: type[Kind]) -> list[Kind]:
        return [event for event in self.events if isinstance(event, kind)]


def _brief(event: HostEvent, model_id: str) -> str:
    if getattr(event, "model_id", None) != model_id:
        return ""
    match event:
        case ModelEvent():
            return f"{event.phase}: {event.reason}" if event.reason else event.phase.value
        case ProgressEvent():
            return f"{event.progress.stage} {event.progress.fraction}"
        case RestartEvent():
            return f"restart {event.restarts}: {event.death}"
        case _:
            return type(event).__name__


@asynccontextmanager
async def followed(
    scripts: dict[str, ScriptedModel] | None = None, *, residency: ResidencyRules | None = None, capacity: int = 0
) -> AsyncIterator[Host]:
    """A registry, and all that it tells until the block has been left."""
    harness = ScriptedHarness(scripts)
    host = Host(harness, Registry([harness], residency=residency, capacity=lambda: {"cpu": capacity}))
    async with anyio.create_task_group() as tasks, host.registry:
        tasks.start_soon(host.follow)
        yield host


async def test_the_life_of_a_model_is_told_from_its_load_until_its_memory_is_back() -> None:
    stages = (
        LoadProgress(stage=LoadStage.DOWNLOADING, fraction=0.25),
        LoadProgress(stage=LoadStage.LOADING, fraction=0.5),
    )
    async with followed({A: ScriptedModel(stages=stages)}) as host:
        await host.registry.load(spec(A))
        await host.registry.unload(A)
    told = host.of_model()
    assert told == [
        "loading",
        "resolving None",
        "downloading 0.25",
        "loading 0.5",
        "serving",
        "draining",
        "closing",
        "gone",
    ]


async def test_a_load_that_fails_is_told_with_its_whole_reason_and_its_code() -> None:
    error = LoadFailed("the file is broken", model_id=A)
    error.__cause__ = ValueError("bad magic")
    async with followed({A: ScriptedModel(stages=(), load_error=error)}) as host:
        caller = Caller(host.registry)
        await caller.load(A)
    gone = host.of_kind(ModelEvent)[-1]
    assert (gone.phase, gone.code) == (ModelPhase.GONE, LoadFailed.code)
    assert gone.reason is not None
    assert "the file is broken" in gone.reason
    assert "bad magic" in gone.reason
    assert host.of_kind(RejectionEvent) == []


async def test_a_load_that_is_cancelled_has_no_reason() -> None:
    async with followed({A: ScriptedModel(stages=(), may_load=anyio.Event())}) as host:
        caller = Caller(host.registry)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(caller.load, A)
            await wait_all_tasks_blocked()
            await host.registry.unload(A)
    assert host.of_model() == ["loading", "resolving None", "closing", "gone"]


async def test_an_engine_that_dies_is_told_with_its_last_words_and_so_is_the_next_one() -> None:
    async with followed({A: ScriptedModel(stages=(), death="SIGSEGV")}) as host:
        await host.registry.load(spec(A))
        host.harness.crash(A)
        await anyio.sleep(1.5)
        host.harness.recover(A)
        await anyio.sleep(1.5)
        host.events.clear()
        host.harness.crash(A)
        host.harness.recover(A)
        await anyio.sleep(1.5)
        quick = host.of_model()
    assert quick == ["restart 2: SIGSEGV"]


async def test_a_model_that_recovers_is_told_as_recovering_and_then_as_serving() -> None:
    async with followed({A: ScriptedModel(stages=(), death="SIGSEGV")}) as host:
        await host.registry.load(spec(A))
        await wait_all_tasks_blocked()
        host.events.clear()
        host.harness.crash(A)
        await anyio.sleep(1.5)
        host.harness.recover(A)
        await anyio.sleep(1.5)
        told = host.of_model()
    assert told == ["restart 1: SIGSEGV", "recovering: SIGSEGV", "serving"]


async def test_a_model_that_is_given_up_is_told_with_the_reason() -> None:
    script = ScriptedModel(stages=(), death="it died three times")
    async with followed({A: script}) as host:
        await host.registry.load(spec(A))
        await wait_all_tasks_blocked()
        host.events.clear()
        script.dies.set()
        await anyio.sleep(1.5)
        told = host.of_model()
    assert told == ["closing: it died three times", "gone: it died three times"]


async def test_a_second_life_of_a_model_begins_anew() -> None:
    async with followed({A: ScriptedModel(stages=())}) as host:
        for _ in range(2):
            await host.registry.load(spec(A))
            await host.registry.unload(A)
    life = ["loading", "resolving None", "serving", "draining", "closing", "gone"]
    assert host.of_model() == life * 2


async def test_an_ended_reply_is_told_with_its_cost_and_a_pseudonym() -> None:
    alice = Principal(account_id="alice", key_id="k1")
    async with followed() as host:
        await host.registry.load(spec(A))
        task = replace(request(A), principal=alice, request_id="my id\n")
        async with host.registry.chat(task) as reply:
            assert [event async for event in reply]
    (ended,) = host.of_kind(ReplyEvent)
    assert (ended.model_id, ended.outcome) == (A, ReplyOutcome.FINISHED)
    assert (ended.prompt_tokens, ended.completion_tokens) == (7, 4)
    assert (ended.request_id, ended.principal) == ("my_id_", alice.pseudonym)
    assert "alice" not in repr(host.events)


async def test_what_takes_no_seat_is_no_reply_worth_telling() -> None:
    async with followed() as host:
        await host.registry.load(spec(A))
        async with host.registry.run(Tokenize(model_id=A, prompt="hi")) as reply:
            assert [event async for event in reply]
    assert host.of_kind(ReplyEvent) == []


async def test_a_request_that_is_refused_is_told_with_the_code_and_without_its_text() -> None:
    async with followed({A: ScriptedModel(n_ctx=7)}) as host:
        await host.registry.load(spec(A))
        for model_id in (A, "o/absent"):
            caller = Caller(host.registry)
            await caller.chat(model_id)
            assert caller.errors
    told = [(event.what, event.model_id, event.code) for event in host.of_kind(RejectionEvent)]
    assert told == [("request", A, PromptTooLong.code), ("request", "o/absent", "model_not_found")]


async def test_the_id_of_a_refused_request_is_bounded() -> None:
    async with followed() as host:
        await Caller(host.registry).chat("o/" + "a" * 100_000)
    (event,) = host.of_kind(RejectionEvent)
    assert len(event.model_id) < 300


async def test_a_load_that_cannot_begin_is_told_as_refused() -> None:
    rules = ResidencyRules(makes_room=True, on_demand=(spec(A),))
    async with followed({A: ScriptedModel(needs={"cpu": 100})}, residency=rules, capacity=10) as host:
        for harness_name in ("scripted", "unknown"):
            await Caller(host.registry).load(A, harness=harness_name)
    told = [(event.what, event.code) for event in host.of_kind(RejectionEvent)]
    assert told == [("load", "preflight_failed"), ("load", "unknown_harness")]


async def test_the_host_is_told_as_pre_warming_ready_and_draining() -> None:
    harness, tracker = ScriptedHarness(), ActivationTracker([spec(A)])
    host = Host(harness, Registry([harness]))
    host.registry.follow(tracker)
    async with anyio.create_task_group() as tasks, host.registry:
        tasks.start_soon(host.follow)
        await anyio.sleep(1.5)
        tracker.fail_loading(A, "no")
        tracker.mark_ready()
        await anyio.sleep(1.5)
        host.registry.close_admission()
        await anyio.sleep(1.5)
    told = [event.state for event in host.of_kind(HostStateEvent)]
    assert told == [HostState.PRE_WARMING, HostState.READY, HostState.DRAINING]


async def test_a_reader_hears_of_the_end_of_every_model_and_then_ends() -> None:
    async with followed() as host:
        await host.registry.load(spec(A))
        await wait_all_tasks_blocked()
        host.events.clear()
    assert host.of_model() == ["closing", "gone"]


async def test_replies_are_told_to_the_program_as_well() -> None:
    ended = list[str]()
    async with Registry([ScriptedHarness()], on_reply=lambda reply: ended.append(reply.model_id)) as registry:
        await registry.load(spec(A))
        events = registry.events()
        await reply_text(registry, A)
        assert isinstance(await anext(events), ReplyEvent)
    assert ended == [A]


async def test_what_the_program_around_it_does_is_told_within_bounds() -> None:
    async with followed() as host:
        host.registry.tell_reload(Reload(count=1, at=0, needs_restart=("port",)))
        host.registry.tell_reload(Reload(count=2, at=0, error="x" * 100_000))
        host.registry.tell_refused_load(LoadFailed("no driver"), model_id="o/" + "x" * 100_000)
    succeeded, refused = host.of_kind(ReloadEvent)
    assert (succeeded.error, succeeded.needs_restart) == (None, ("port",))
    assert len(refused.error or "") < 3000
    (rejection,) = host.of_kind(RejectionEvent)
    assert (rejection.what, rejection.reason) == ("load", "no driver")
    assert len(rejection.model_id) < 300
