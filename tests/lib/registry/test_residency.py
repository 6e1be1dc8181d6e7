"""A registry that loads on demand, makes room and unloads idle models, in virtual time."""

import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from msgspec.structs import replace
from trio.testing import MockClock

from neuron_lib import (
    ActivationTracker,
    AlreadyLoaded,
    LoadFailed,
    ModelLoading,
    ModelNotLoaded,
    ModelSpec,
    NeuronError,
    Registry,
    load_default_models,
)
from neuron_lib.errors import (
    InvalidRequest,
    LoadCancelled,
    Overloaded,
    PreflightFailed,
    PreflightKind,
    ShuttingDown,
    SourceUnavailable,
)
from neuron_lib.harness import ProgressReporter
from neuron_lib.registry.making_room import Needs
from neuron_lib.registry.residency_rules import ModelRules, ResidencyRules
from neuron_lib.testing import ScriptedHarness, ScriptedModel
from tests.fakes.registry_callers import reply_text, request, spec

pytestmark = pytest.mark.anyio

A, B, C = "o/a", "o/b", "o/c"
LOAD_S = 5.0
TEN = {"cpu": 10}


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class SlowHarness(ScriptedHarness):
    """Its models take five seconds to load. `most` is the most memory that they took together."""

    taken = 0
    most = 0

    @asynccontextmanager
    async def open(self, spec: ModelSpec, *, model_id: str, report: ProgressReporter) -> AsyncIterator[Any]:
        size = (await self.memory_need(spec)).get("cpu", 0)
        self.taken += size
        self.most = max(self.most, self.taken)
        try:
            await anyio.sleep(LOAD_S)
            async with super().open(spec, model_id=model_id, report=report) as model:
                yield model
        finally:
            self.taken -= size

    def loads(self) -> list[str]:
        return [line.removeprefix("open ") for line in self.log if line.startswith("open ")]


@dataclass
class Host:
    registry: Registry
    harness: SlowHarness
    errors: list[NeuronError] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)

    async def chat(self, model_id: str, *, for_s: float = 0.0) -> None:
        try:
            async with self.registry.chat(request(model_id)):
                await anyio.sleep(for_s)
            self.answered.append(model_id)
        except NeuronError as error:
            self.errors.append(error)

    @property
    def here(self) -> list[str]:
        return [info.id for info in self.registry.list_models()]


def rules(*ids: str, **changes: object) -> ResidencyRules:
    return ResidencyRules(makes_room=True, on_demand=tuple(map(spec, ids)), **changes)  # type: ignore[arg-type] # any field


@asynccontextmanager
async def host(
    sizes: Mapping[str, int],
    residency: ResidencyRules,
    *,
    scripts: Mapping[str, ScriptedModel] | None = None,
    wait_for_load_s: float = 120.0,
    capacity: Callable[[], Needs] = lambda: TEN,
    available: Callable[[], Needs] = dict,
) -> AsyncIterator[Host]:
    async def measured() -> Needs:
        return available()

    harness = SlowHarness(scripts or {id_: ScriptedModel(needs={"cpu": size}) for id_, size in sizes.items()})
    async with Registry(
        [harness],
        residency=residency,
        capacity=capacity,
        available=measured,
        wait_for_load_s=wait_for_load_s,
        clock=anyio.current_time,
    ) as registry:
        yield Host(registry, harness)


# ---------------------------------------------------------------------------------------------------------- on demand


async def test_a_chat_loads_the_model_that_it_names_and_waits_for_it() -> None:
    async with host({A: 4}, rules(A)) as one:
        assert await reply_text(one.registry, A) == "Hello, world!"
        assert one.harness.loads() == [A]
        assert await reply_text(one.registry, "o/a:latest") == "Hello, world!"
        assert one.harness.loads() == [A]


async def test_without_rules_a_chat_loads_nothing() -> None:
    async with host({A: 4}, ResidencyRules()) as one:
        with pytest.raises(ModelNotLoaded):
            await reply_text(one.registry, A)
        with pytest.raises(ModelNotLoaded):
            one.registry.endpoint(A)
        assert one.harness.log == []


async def test_a_model_that_is_not_configured_is_not_loaded() -> None:
    async with host({A: 4}, rules(A)) as one:
        with pytest.raises(ModelNotLoaded) as raised:
            await reply_text(one.registry, B)
        assert not isinstance(raised.value, ModelLoading)
        assert one.harness.log == []


async def test_many_chats_with_one_model_load_it_once() -> None:
    async with host({A: 4}, rules(A)) as one:
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(one.chat, A)
        assert (one.harness.loads(), len(one.answered)) == ([A], 20)


async def test_a_chat_that_may_not_wait_so_long_is_told_when_to_come_back_and_the_load_goes_on() -> None:
    async with host({A: 4}, rules(A), wait_for_load_s=0.0) as one:
        with pytest.raises(ModelLoading) as raised:
            await reply_text(one.registry, A)
        assert raised.value.retry_after_s is not None
        await anyio.sleep(LOAD_S + 1)
        assert await reply_text(one.registry, A) == "Hello, world!"


async def test_a_model_on_demand_has_an_endpoint_before_it_is_loaded_and_is_not_listed() -> None:
    async with host({A: 4}, rules(A)) as one:
        assert one.registry.endpoint(A) == one.registry.endpoint_url
        assert one.here == []
        with pytest.raises(ModelNotLoaded):
            one.registry.info(A)


# -------------------------------------------------------------------------------------------------------- making room


async def test_an_idle_model_goes_for_a_model_that_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with host({A: 6, B: 6, C: 4}, rules(A, B, C)) as one:
        await one.chat(C)
        await one.chat(A)
        await anyio.sleep(60)
        await one.chat(B)
        assert one.here == [C, B]
        assert one.harness.most == 10
    line = next(record for record in caplog.records if "make room" in record.message)
    assert (line.__dict__["model_id"], line.__dict__["for_model"]) == (A, B)


async def test_a_busy_model_is_never_unloaded_and_admits_nothing_further_while_another_one_waits() -> None:
    async with host({A: 6, B: 6}, rules(A, B)) as one, anyio.create_task_group() as tasks:
        await one.chat(A)
        tasks.start_soon(lambda: one.chat(A, for_s=50))
        await anyio.sleep(31)
        tasks.start_soon(one.chat, B)
        await anyio.sleep(1)
        tasks.start_soon(one.chat, A)
        await anyio.sleep(10)
        assert (one.here, one.answered) == ([A], [A])
        await anyio.sleep(18)
        assert one.answered == [A, A, B]
        await anyio.sleep(60)
        assert one.answered == [A, A, B, A]
    assert (one.harness.loads(), one.harness.most, one.errors) == ([A, B, A], 6, [])


async def test_a_model_that_yields_admits_again_when_nobody_waits_for_the_other_one_any_more() -> None:
    async with host({A: 6, B: 6}, rules(A, B), wait_for_load_s=0.0) as one, anyio.create_task_group() as tasks:
        await one.registry.load(spec(A))
        tasks.start_soon(lambda: one.chat(A, for_s=500))
        await anyio.sleep(31)
        await one.chat(B)
        await anyio.sleep(1)
        await one.chat(A)
        assert [type(error) for error in one.errors] == [ModelLoading, ModelLoading]
        await anyio.sleep(240)
        await one.chat(A)
        assert one.answered == [A]
    assert one.harness.loads() == [A]


async def test_a_pinned_model_stays_and_the_request_is_told_why() -> None:
    pinned = rules(A, B, models={A: ModelRules(is_pinned=True)})
    async with host({A: 6, B: 6}, pinned) as one:
        await one.chat(A)
        await anyio.sleep(60)
        await one.chat(B)
        assert one.here == [A]
        assert "pinned" in one.errors[0].message


async def test_of_models_that_exclude_each_other_one_is_here() -> None:
    async with host({A: 1, B: 1}, rules(A, B, exclusive=(frozenset({A, B}),))) as one:
        await one.chat(A)
        await one.chat(B)
        assert one.here == [B]


async def test_a_load_by_an_operator_makes_room_too() -> None:
    async with host({A: 6, B: 6}, rules()) as one:
        await one.registry.load(spec(A))
        await one.registry.load(spec(B))
        assert one.here == [B]


async def test_of_two_loads_of_one_model_that_wait_for_room_the_second_is_told_that_it_is_loaded() -> None:
    async with host({A: 6, B: 6}, rules()) as one:
        await one.registry.load(spec(A))
        outcomes: list[object] = []

        async def load() -> None:
            try:
                outcomes.append((await one.registry.load(spec(B))).id)
            except AlreadyLoaded as error:
                outcomes.append(type(error))

        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(load)
        assert outcomes in ([B, AlreadyLoaded], [AlreadyLoaded, B])


async def test_a_load_that_can_never_fit_is_refused_at_once_and_touches_nothing() -> None:
    async with host({A: 6, B: 11}, rules()) as one:
        await one.registry.load(spec(A))
        before_s = anyio.current_time()
        with pytest.raises(PreflightFailed) as raised:
            await one.registry.load(spec(B))
        assert raised.value.kind is PreflightKind.INSUFFICIENT_MEMORY
        assert anyio.current_time() == before_s
        assert one.here == [A]


async def test_a_chat_with_a_model_that_can_never_fit_is_refused_as_its_load_is_and_touches_nothing() -> None:
    async with host({A: 6, B: 11}, rules(A, B)) as one:
        await one.chat(A)
        before_s = anyio.current_time()
        for _ in range(2):
            await one.chat(B)
            told = one.errors[-1]
            assert isinstance(told, PreflightFailed)
            assert (told.kind, told.fields["needed_bytes"]) == (PreflightKind.INSUFFICIENT_MEMORY, 11)
        assert (one.here, anyio.current_time()) == ([A], before_s)


async def test_no_model_is_unloaded_for_a_load_that_other_programs_leave_too_little_memory() -> None:
    async with host({A: 4, B: 6}, rules(A, B), available=lambda: {"cpu": 5}) as one:
        await one.chat(A)
        await anyio.sleep(60)
        await one.chat(B)
        told = one.errors[-1]
        assert isinstance(told, PreflightFailed)
        assert (told.fields["needed_bytes"], told.fields["free_bytes"]) == (6, 5)
        assert one.here == [A]


async def test_more_models_are_unloaded_where_other_programs_have_memory() -> None:
    free = {"cpu": 10}
    async with host({A: 3, B: 3, C: 3}, rules(A, B, C), available=lambda: free) as one:
        for model_id in (A, B):
            await one.chat(model_id)
            await anyio.sleep(60)
        free["cpu"] = 8
        await one.chat(C)
        assert one.here == [B, C]


async def test_the_memory_of_a_model_that_is_leaving_counts_as_neither_free_nor_taken_by_other_programs() -> None:
    def available() -> Needs:
        return {"cpu": 1} if one.registry.unloading() else TEN

    async with host({A: 6, B: 6}, rules(A, B), available=available) as one:
        await one.chat(A)
        await anyio.sleep(60)
        await one.chat(B)
        assert (one.errors, one.answered) == ([], [A, B])


async def test_a_host_whose_memory_cannot_be_measured_goes_by_its_limits() -> None:
    def available() -> Needs:
        raise RuntimeError("no such file")

    async with host({A: 6, B: 6}, rules(A, B), available=available) as one:
        await one.chat(A)
        await anyio.sleep(60)
        await one.chat(B)
        assert one.answered == [A, B]


async def test_memory_that_was_lacking_is_looked_for_again_after_the_same_time_however_often_it_was_lacking() -> None:
    free = {"cpu": 5}
    async with host({A: 6}, rules(A), capacity=lambda: free) as one:
        for _ in range(4):
            await one.chat(A)
            assert isinstance(one.errors[-1], PreflightFailed)
            await anyio.sleep(11)
        free["cpu"] = 6
        await one.chat(A)
        assert one.answered == [A]


async def test_a_load_that_may_not_make_room_does_not_keep_a_chat_from_making_it() -> None:
    async with host({A: 6, B: 6}, rules(A, B)) as one:
        await one.chat(A)
        await anyio.sleep(60)
        with pytest.raises(PreflightFailed):
            await one.registry.load(spec(B), may_displace=False)
        await one.chat(B)
        assert one.answered == [A, B]


async def test_a_load_waits_for_room_no_longer_than_ten_minutes() -> None:
    async with host({A: 6, B: 6}, rules()) as one, anyio.create_task_group() as tasks:
        await one.registry.load(spec(A))
        tasks.start_soon(lambda: one.chat(A, for_s=10_000))
        await anyio.sleep(1)
        with pytest.raises(Overloaded):
            await one.registry.load(spec(B))
        tasks.cancel_scope.cancel()


async def test_default_models_make_no_room_for_each_other() -> None:
    async with host({A: 6, B: 6, C: 4}, rules(A, B, C)) as one:
        tracker = ActivationTracker([spec(A), spec(B), spec(C)])
        await load_default_models(one.registry, [spec(A), spec(B), spec(C)], tracker)
        assert one.here == [A, C]
        assert [failed.model_id for failed in tracker.snapshot().failed] == [B]
        await anyio.sleep(60)
        await one.chat(B)
        assert one.answered == [B]


async def test_a_host_that_stops_refuses_loads_that_wait_for_room() -> None:
    async with host({A: 6, B: 6}, rules(A, B)) as one, anyio.create_task_group() as tasks:
        await one.registry.load(spec(A))
        tasks.start_soon(one.chat, B)
        await anyio.sleep(1)
        one.registry.close_admission()
        await anyio.sleep(1)
        assert [type(error) for error in one.errors] == [ShuttingDown]
        with pytest.raises(ShuttingDown):
            await one.registry.load(spec(C))


async def test_an_unload_cancels_a_load_that_waits_for_room() -> None:
    async with host({A: 6, B: 6}, rules(A, B)) as one, anyio.create_task_group() as tasks:
        await one.registry.load(spec(A))
        tasks.start_soon(lambda: one.chat(A, for_s=100))
        await anyio.sleep(1)

        async def load() -> None:
            with pytest.raises(LoadCancelled):
                await one.registry.load(spec(B))

        tasks.start_soon(load)
        await anyio.sleep(1)
        await one.registry.unload(B)
        await anyio.sleep(1)
        with pytest.raises(ModelNotLoaded):
            await one.registry.unload(B)
    assert one.harness.loads() == [A]


async def test_a_model_that_is_here_under_another_spelling_of_its_id_is_not_loaded_twice() -> None:
    on_demand = ResidencyRules(makes_room=True, on_demand=(spec(A, quant="Q4_K_M"), spec(B)))
    sizes = {f"{A}:Q4_K_M": 6, B: 6}
    async with host(sizes, on_demand, wait_for_load_s=0.0) as one, anyio.create_task_group() as tasks:
        await one.registry.load(spec(f"{A}:Q4_K_M"))
        tasks.start_soon(lambda: one.chat(A, for_s=500))
        await anyio.sleep(31)
        await one.chat(B)
        await anyio.sleep(1)
        await one.chat(A)  # it yields, so this chat wants it to be loaded again
        await one.registry.unload(B)
        await anyio.sleep(100)
        await one.chat(A)
        assert (one.here, one.answered) == ([f"{A}:Q4_K_M"], [A])
    assert one.harness.loads() == [f"{A}:Q4_K_M"]


async def test_the_need_of_a_model_is_asked_once_for_a_load_however_many_ask_for_the_model() -> None:
    async with host({A: 6}, rules(A)) as one, anyio.create_task_group() as tasks:
        may_say, asked = anyio.Event(), 0

        async def memory_need(_spec: ModelSpec) -> dict[str, int]:
            nonlocal asked
            asked += 1
            await may_say.wait()
            return {}

        one.harness.memory_need = memory_need  # type: ignore[method-assign,assignment] # counts
        for _ in range(5):
            tasks.start_soon(one.chat, A)
            await anyio.sleep(1)
        assert asked == 1
        may_say.set()


async def test_models_that_were_loaded_before_a_host_made_room_are_counted_too() -> None:
    async with host({A: 6, B: 6}, ResidencyRules()) as one:
        await one.registry.load(spec(A))
        one.registry.set_residency(rules(A, B))
        await anyio.sleep(60)
        await one.chat(B)
        assert (one.here, one.harness.most) == ([B], 6)


async def test_a_model_here_whose_need_cannot_be_said_is_told_of_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async with host({A: 6, B: 6}, ResidencyRules()) as one:
        await one.registry.load(spec(A))

        async def memory_need(_spec: ModelSpec) -> dict[str, int]:
            raise SourceUnavailable("no plan in time", model_id=A)

        one.harness.memory_need = memory_need  # type: ignore[method-assign,assignment] # fails
        one.registry.set_residency(rules(A, B))
        await anyio.sleep(1)
        assert "memory need of a model is not known" in caplog.text
        assert one.here == [A]


@pytest.mark.parametrize("limits", [{"min_resident_s": 0.0}, {"default": ModelRules(idle_limit_s=0.001)}])
async def test_whoever_waits_for_a_load_gets_into_the_model_however_short_it_may_stay(limits: dict[str, Any]) -> None:
    async with host({A: 6, B: 6}, rules(A, B, **limits)) as one:
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(one.chat, (A, B)[number % 2])
        assert (len(one.answered), one.errors) == (20, [])
        assert sorted(one.harness.loads()) == [A, B]


class FaultyHarness(ScriptedHarness):
    """Cannot say the need of any model."""

    async def memory_need(self, spec: ModelSpec) -> Mapping[str, int]:
        if spec.model_id == A:
            raise ZeroDivisionError
        await anyio.sleep_forever()
        raise AssertionError


async def test_a_harness_that_fails_to_say_a_need_or_is_silent_keeps_no_model_from_being_loaded() -> None:
    async with Registry(
        [FaultyHarness()], residency=rules(), capacity=lambda: TEN, clock=anyio.current_time
    ) as registry:
        for model_id in (A, B):
            await registry.load(spec(model_id))
        assert [info.id for info in registry.list_models()] == [A, B]


async def test_loads_that_wait_and_models_that_were_unloaded_are_counted_by_cause() -> None:
    limits = rules(A, B, default=ModelRules(idle_limit_s=600.0))
    async with host({A: 6, B: 6}, limits) as one, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: one.chat(A, for_s=100))
        await anyio.sleep(60)
        tasks.start_soon(one.chat, B)
        await anyio.sleep(1)
        busy = one.registry.residency_counts()
        assert (busy.waiting_loads, busy.unloaded_for_room, busy.unloaded_idle) == (1, 0, 0)
        await anyio.sleep(120)
        displaced = one.registry.residency_counts()
        assert (displaced.waiting_loads, displaced.unloaded_for_room, displaced.unloaded_idle) == (0, 1, 0)
        await anyio.sleep(700)
        assert one.here == []
        assert one.registry.residency_counts().unloaded_idle == 1


class TightHarness(SlowHarness):
    """Refuses what does not fit into eight, as a harness does that has measured."""

    @asynccontextmanager
    async def open(self, spec: ModelSpec, *, model_id: str, report: ProgressReporter) -> AsyncIterator[Any]:
        if self.taken + (await self.memory_need(spec))["cpu"] > 8:
            self.log.append(f"refuse {model_id}")
            raise PreflightFailed(PreflightKind.INSUFFICIENT_MEMORY, "not so much is free", model_id=model_id)
        async with super().open(spec, model_id=model_id, report=report) as model:
            yield model


@pytest.mark.parametrize("by_operator", [False, True])
async def test_where_less_is_free_than_was_counted_one_more_model_goes_and_the_load_is_tried_again(
    *, by_operator: bool
) -> None:
    harness = TightHarness({id_: ScriptedModel(needs={"cpu": size}) for id_, size in {A: 3, B: 3, C: 4}.items()})
    async with Registry(
        [harness], residency=rules(C), capacity=lambda: TEN, wait_for_load_s=120, clock=anyio.current_time
    ) as registry:
        for model_id in (A, B):
            await registry.load(spec(model_id))
        one = Host(registry, harness)
        if by_operator:
            assert (await registry.load(spec(C))).id == C
        else:
            await one.chat(C)
        assert (one.here, one.errors, harness.log.count(f"refuse {C}")) == ([B, C], [], 1)


async def test_where_even_an_empty_host_has_too_little_memory_the_load_fails() -> None:
    harness = TightHarness({id_: ScriptedModel(needs={"cpu": size}) for id_, size in {A: 3, B: 9}.items()})
    async with Registry([harness], residency=rules(), capacity=lambda: TEN, clock=anyio.current_time) as registry:
        await registry.load(spec(A))
        with pytest.raises(PreflightFailed):
            await registry.load(spec(B))
        assert registry.list_models() == ()


# ------------------------------------------------------------------------------------------------- failures, idle time


async def test_a_model_whose_load_fails_is_not_tried_again_for_some_time_which_grows() -> None:
    scripts = {A: ScriptedModel(load_error=LoadFailed("too new"))}
    async with host({}, rules(A), scripts=scripts) as one:
        for tries, pause_s in ((1, 10), (2, 20), (3, 40)):
            await one.chat(A)
            await one.chat(A)
            told = one.errors[-1]
            assert isinstance(told, ModelLoading)
            assert (told.stage, told.retry_after_s, told.fields["attempt"]) == ("cooling_down", pause_s, tries)
            assert "too new" in told.message
            assert len(one.harness.loads()) == tries
            await anyio.sleep(pause_s + 1)
        one.harness.scripts[A] = ScriptedModel()
        await one.chat(A)
        assert one.answered == [A]


async def test_a_model_that_nobody_uses_is_unloaded_after_its_own_time() -> None:
    limits = ResidencyRules(default=ModelRules(idle_limit_s=60.0), models={B: ModelRules(idle_limit_s=600.0)})
    async with host({A: 6, B: 6}, limits) as one:
        for model_id in (A, B):
            await one.registry.load(spec(model_id))
        await anyio.sleep(30)
        await one.chat(A, for_s=100)
        await anyio.sleep(59)
        assert one.here == [A, B]
        await anyio.sleep(2)
        assert one.here == [B]
        for _ in range(400):  # looking at a model is no use of it
            one.registry.list_models()
            one.registry.loads()
            one.registry.endpoint(B)
            await anyio.sleep(1)
        await anyio.sleep(20)
        assert one.here == []


async def test_rules_that_are_replaced_count_at_once_even_where_there_were_none() -> None:
    async with host({A: 6, B: 6}, ResidencyRules()) as one:
        await one.registry.load(spec(A))
        await anyio.sleep(100)
        assert one.here == [A]
        for idle_limit_s in (60.0, None, 60.0):
            one.registry.set_residency(ResidencyRules(default=ModelRules(idle_limit_s=idle_limit_s)))
        await anyio.sleep(61)
        assert one.here == []


async def test_the_last_request_says_how_long_the_model_stays_but_not_less_than_the_minimum_residence() -> None:
    async with host({A: 6}, rules(A, default=ModelRules(idle_limit_s=600.0))) as one:

        async def stays_s(keep_alive_s: float | None, *, limit_s: float) -> float:
            async with one.registry.chat(replace(request(A), keep_alive_s=keep_alive_s)):
                pass
            ended_s = anyio.current_time()
            with anyio.move_on_after(limit_s):
                await one.registry._models.changes.until(lambda: not one.here)
            return anyio.current_time() - ended_s

        assert await stays_s(0, limit_s=1000) == pytest.approx(30, abs=2)
        assert await stays_s(100, limit_s=1000) == pytest.approx(100, abs=2)
        assert await stays_s(math.inf, limit_s=5000) == pytest.approx(5000)
        assert await stays_s(0, limit_s=1000) == pytest.approx(0, abs=2)
        assert await stays_s(None, limit_s=1000) == pytest.approx(600, abs=2)


async def test_a_host_that_does_not_make_room_refuses_to_let_a_request_say_how_long_a_model_stays() -> None:
    async with host({A: 6}, ResidencyRules()) as one:
        await one.registry.load(spec(A))
        for seconds in (0.0, 100.0):
            with pytest.raises(InvalidRequest) as raised:
                await one.registry.chat(replace(request(A), keep_alive_s=seconds)).__aenter__()
            assert raised.value.param == "keep_alive"
        async with one.registry.chat(replace(request(A), keep_alive_s=math.inf)):  # that is what happens anyway
            pass


# ------------------------------------------------------------------------------------------------------- many clients


async def test_twenty_clients_on_two_models_that_do_not_fit_together_are_all_served_without_thrash() -> None:
    async with host({A: 6, B: 6}, rules(A, B), wait_for_load_s=120.0) as one:

        async def client(number: int) -> None:
            for turn in range(10):
                await one.chat((A, B)[(number + turn) % 2], for_s=1 + number % 7)

        started_s = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(client, number)
        took_s = anyio.current_time() - started_s
        assert (one.errors, len(one.answered)) == ([], 200)
        assert one.harness.most == 6
        assert len(one.harness.loads()) <= took_s / (30.0 + LOAD_S) + 2, "thrash"
