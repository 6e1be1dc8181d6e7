"""What a chat hears of a model that does not serve: come back, and when; or why nobody loads it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from trio.testing import MockClock

from neuron_lib import (
    ActivationTracker,
    Finished,
    LoadFailed,
    LoadProgress,
    LoadStage,
    ModelLoading,
    ModelNotLoaded,
    ModelSpec,
    NeuronError,
    Registry,
    RequestRejected,
    ShuttingDown,
    SourceUnavailable,
    load_default_models,
)
from neuron_lib.testing import ScriptedHarness, ScriptedModel
from tests.fakes.registry_callers import Caller, reply_text, request, spec
from tests.fakes.turns import let_others_run

pytestmark = pytest.mark.anyio

SILENT = SourceUnavailable("the hub is silent", model_id="o/a")


async def refusal_of(registry: Registry, model_id: str = "o/a") -> RequestRejected:
    with pytest.raises(RequestRejected) as raised:
        await registry.chat(request(model_id)).__aenter__()
    return raised.value


@asynccontextmanager
async def loading(script: ScriptedModel, *, wait_for_load_s: float = 0.0) -> AsyncIterator[tuple[Registry, Caller]]:
    """A registry in which `o/a` loads for as long as its script says, and who asked for that."""
    registry = Registry([ScriptedHarness({"o/a": script})], wait_for_load_s=wait_for_load_s)
    async with registry, anyio.create_task_group() as tasks:
        caller = Caller(registry)
        tasks.start_soon(caller.load)
        await let_others_run()
        yield registry, caller
        if script.may_load is not None:
            script.may_load.set()


# ------------------------------------------------------------------------------------------------- while it loads


@pytest.mark.parametrize(
    ("progress", "retry_after_s", "fields"),
    [
        (
            LoadProgress(stage=LoadStage.DOWNLOADING, bytes=10, total_bytes=40, eta_s=42),
            42,
            {"stage": "downloading", "fraction": 0.25, "eta_s": 42},
        ),
        (LoadProgress(stage=LoadStage.DOWNLOADING, eta_s=7200), 120, {"stage": "downloading", "eta_s": 7200}),
        (LoadProgress(stage=LoadStage.WARMING, eta_s=0), 1, {"stage": "warming", "eta_s": 0}),
        (LoadProgress(stage=LoadStage.LOADING, fraction=0.5), 5, {"stage": "loading", "fraction": 0.5}),
        (LoadProgress(stage=LoadStage.RESOLVING, queue_position=3), 5, {"stage": "resolving", "queue_position": 3}),
    ],
)
@pytest.mark.parametrize("spelling", ["o/a", "helexa:o/a"])
async def test_a_chat_with_a_model_that_loads_is_told_how_far_that_is_and_when_to_come_back(
    progress: LoadProgress, retry_after_s: int, fields: dict[str, object], spelling: str
) -> None:
    async with loading(ScriptedModel(stages=[progress], may_load=anyio.Event())) as (registry, _):
        error = await refusal_of(registry, spelling)
        assert isinstance(error, ModelLoading)
        assert error.retry_after_s == retry_after_s
        assert error.fields == {"model_id": spelling, **fields}
        assert error.stage in error.message
        assert registry.endpoint(spelling) == registry.endpoint_url


async def test_a_chat_with_a_model_that_leaves_only_to_be_loaded_again_is_told_to_come_back() -> None:
    may_unload = anyio.Event()
    harness = ScriptedHarness({"o/a": ScriptedModel(may_unload=may_unload)})
    async with Registry([harness]) as registry, anyio.create_task_group() as tasks:
        await registry.load(spec())
        tasks.start_soon(registry.unload, "o/a")
        await let_others_run()
        tasks.start_soon(registry.load, spec())
        await let_others_run()
        error = await refusal_of(registry)
        assert isinstance(error, ModelLoading)
        assert error.stage == "pending"
        assert registry.endpoint("o/a") == registry.endpoint_url
        registry.wait_for_load_s = 30.0
        patient = Caller(registry)
        tasks.start_soon(patient.chat)
        await let_others_run()
        assert not patient.done.is_set()
        may_unload.set()
        await patient.done.wait()
        assert (patient.errors, isinstance(patient.events[-1], Finished)) == ([], True)


async def test_a_load_that_is_given_up_before_its_model_has_left_leaves_nobody_waiting() -> None:
    may_unload = anyio.Event()
    harness = ScriptedHarness({"o/a": ScriptedModel(may_unload=may_unload)})
    async with Registry([harness], wait_for_load_s=3600) as registry, anyio.create_task_group() as tasks:
        await registry.load(spec())
        tasks.start_soon(registry.unload, "o/a")
        await let_others_run()
        patient = Caller(registry)
        async with anyio.create_task_group() as loads:
            loads.start_soon(registry.load, spec())
            await let_others_run()
            tasks.start_soon(patient.chat)
            await let_others_run()
            assert not patient.done.is_set()
            loads.cancel_scope.cancel()
        await let_others_run()
        assert [type(error) for error in patient.errors] == [ModelNotLoaded]
        may_unload.set()


# ----------------------------------------------------------------------------------------------- why it does not


@pytest.mark.parametrize("error", [LoadFailed("too big for this host"), SILENT])
async def test_a_chat_with_a_model_whose_load_failed_is_told_why_until_it_is_loaded(error: NeuronError) -> None:
    script = ScriptedModel(load_error=error)
    async with Registry([ScriptedHarness({"o/a": script})]) as registry:
        assert (await refusal_of(registry)).message == "model 'o/a' is not loaded on this host"
        with pytest.raises(type(error)):
            await registry.load(spec())
        refusal = await refusal_of(registry)
        assert type(refusal) is ModelNotLoaded
        assert refusal.message == f"model 'o/a' is not loaded on this host: its last load failed: {error.message}"
        script.load_error = None
        await registry.load(spec())
        await registry.unload("o/a")
        assert (await refusal_of(registry)).message == "model 'o/a' is not loaded on this host"


async def test_a_load_that_was_cancelled_is_no_failure() -> None:
    async with loading(ScriptedModel(may_load=anyio.Event())) as (registry, _):
        await registry.unload("o/a")
        assert (await refusal_of(registry)).message == "model 'o/a' is not loaded on this host"


async def test_a_chat_with_a_model_that_was_given_up_is_told_why() -> None:
    script = ScriptedModel(death="killed by SIGSEGV")
    async with Registry([ScriptedHarness({"o/a": script})]) as registry:
        await registry.load(spec())
        script.dies.set()
        await let_others_run()
        assert (await refusal_of(registry)).message.endswith("it was given up: killed by SIGSEGV")


async def test_the_reasons_of_failed_loads_are_kept_for_the_last_models_only() -> None:
    ids = [f"o/m{number}" for number in range(65)]
    harness = ScriptedHarness({name: ScriptedModel(load_error=LoadFailed("no")) for name in ids})
    async with Registry([harness]) as registry:
        for name in ids:
            with pytest.raises(LoadFailed):
                await registry.load(spec(name))
        assert [(await refusal_of(registry, name)).message.endswith(": no") for name in ids[:2]] == [False, True]


# ---------------------------------------------------------------------------------------------- default models


class Host:
    """A registry, and default models that it loads when told."""

    def __init__(self, *model_ids: str, scripts: dict[str, ScriptedModel], wait_for_load_s: float = 0.0) -> None:
        self.specs = [ModelSpec(model_id=model_id, harness="scripted") for model_id in model_ids]
        self.harness = ScriptedHarness(scripts)
        self.registry = Registry([self.harness], wait_for_load_s=wait_for_load_s)
        self.tracker = ActivationTracker(self.specs)
        self.registry.follow(self.tracker)

    async def load(self, *retry_delays_s: float) -> None:
        await load_default_models(self.registry, self.specs, self.tracker, retry_delays_s=retry_delays_s)


async def test_a_chat_with_a_default_model_is_told_to_come_back_from_the_start_until_it_serves() -> None:
    may_load = anyio.Event()
    host = Host("o/a", "o/b", scripts={"o/a": ScriptedModel(may_load=may_load)})
    async with host.registry, anyio.create_task_group() as tasks:
        for model_id in ("o/a", "o/b"):
            error = await refusal_of(host.registry, model_id)
            assert isinstance(error, ModelLoading)
            assert (error.stage, error.retry_after_s) == ("pending", 5)
            assert host.registry.endpoint(model_id) == host.registry.endpoint_url
        assert type(await refusal_of(host.registry, "o/other")) is ModelNotLoaded
        tasks.start_soon(host.load)
        await let_others_run()
        stages = [getattr(await refusal_of(host.registry, model_id), "stage", None) for model_id in ("o/a", "o/b")]
        assert stages == ["loading", "pending"]
        may_load.set()
        await host.tracker.wait_ready()
        assert await reply_text(host.registry, "o/b") == "Hello, world!"


@pytest.mark.parametrize(
    ("asked", "is_awaited"),
    [("o/a:Q4_K_M", True), ("o/a:q4km", True), ("hub:o/a", True), ("o/a:Q8_0", False), ("o/b", False)],
)
async def test_a_default_model_is_awaited_in_whatever_words_it_is_asked_for(asked: str, *, is_awaited: bool) -> None:
    host = Host("o/a:Q4_K_M", scripts={})
    async with host.registry:
        assert isinstance(await refusal_of(host.registry, asked), ModelLoading) is is_awaited


async def test_a_chat_with_a_model_that_waits_for_its_next_try_is_told_when_that_is_and_what_went_wrong() -> None:
    host = Host("o/a", scripts={"o/a": ScriptedModel(load_error=SILENT)})
    async with host.registry, anyio.create_task_group() as tasks:
        tasks.start_soon(host.load, 60)
        await let_others_run()
        error = await refusal_of(host.registry)
        assert isinstance(error, ModelLoading)
        assert error.stage == "deferred"
        assert 50 < (error.retry_after_s or 0) <= 60
        assert error.fields["attempt"] == 1
        assert error.message.endswith("after: the hub is silent")
        assert host.registry.endpoint("o/a") == host.registry.endpoint_url
        tasks.cancel_scope.cancel()


async def test_a_chat_with_a_default_model_that_failed_for_good_is_told_why() -> None:
    host = Host("o/a", scripts={"o/a": ScriptedModel(load_error=LoadFailed("cursed"))})
    async with host.registry:
        await host.load()
        refusal = await refusal_of(host.registry)
        assert type(refusal) is ModelNotLoaded
        assert refusal.message.endswith(": its last load failed: cursed")


async def test_a_chat_with_a_default_model_that_could_not_even_be_tried_is_told_why() -> None:
    host = Host("o/a", scripts={})
    async with host.registry:
        host.tracker.fail_loading("o/a", "reboot the host")
        assert (await refusal_of(host.registry)).message.endswith(": its last load failed: reboot the host")


async def test_a_default_model_that_somebody_else_loads_while_it_is_pending_has_completed_and_is_loaded_once() -> None:
    may_load = anyio.Event()
    host = Host("o/a", "o/b", scripts={"o/a": ScriptedModel(may_load=may_load)})
    async with host.registry, anyio.create_task_group() as tasks:
        tasks.start_soon(host.load)
        await let_others_run()
        await host.registry.load(spec("o/b"))
        snapshot = host.tracker.snapshot()
        assert (snapshot.in_progress, snapshot.pending, snapshot.completed) == ("o/a", (), ("o/b",))
        may_load.set()
        await host.tracker.wait_ready()
        assert host.tracker.snapshot().completed == ("o/b", "o/a")
        assert host.harness.log.count("open o/b") == 1


async def test_a_deferred_model_that_somebody_else_loads_ends_the_wait_for_its_next_try() -> None:
    script = ScriptedModel(load_error=SILENT)
    host = Host("o/a", scripts={"o/a": script})
    async with host.registry, anyio.create_task_group() as tasks:
        tasks.start_soon(host.load, 3600)
        await let_others_run()
        script.load_error = None
        await host.registry.load(spec())
        with anyio.fail_after(30):
            await host.tracker.wait_ready()
        assert host.tracker.snapshot().completed == ("o/a",)


async def test_a_model_that_was_loaded_and_unloaded_again_before_its_turn_stays_as_it_is() -> None:
    host = Host("o/a", scripts={})
    async with host.registry:
        await host.registry.load(spec())
        await host.registry.unload("o/a")
        await host.load()
        assert host.tracker.snapshot().completed == ("o/a",)
        assert host.registry.list_models() == ()
        assert type(await refusal_of(host.registry)) is ModelNotLoaded


async def test_a_model_that_is_resident_when_a_registry_begins_to_follow_has_completed() -> None:
    async with Registry([ScriptedHarness()]) as registry:
        await registry.load(spec())
        tracker = ActivationTracker([spec(), spec("o/b")])
        registry.follow(tracker)
        assert (tracker.snapshot().completed, tracker.snapshot().pending) == (("o/a",), ("o/b",))


# ------------------------------------------------------------------------------------------------------- waiting


WAIT_S = 30.0


class Patient:
    """A chat that may wait for its model."""

    def __init__(self, registry: Registry, tasks: anyio.abc.TaskGroup, model_id: str = "o/a") -> None:
        self.caller = Caller(registry)
        tasks.start_soon(self.caller.chat, model_id)

    @property
    def errors(self) -> list[type[NeuronError]]:
        return [type(error) for error in self.caller.errors]

    @property
    def has_answer(self) -> bool:
        return bool(self.caller.events) and isinstance(self.caller.events[-1], Finished)


class TestPatience:
    """In virtual time, which one of the event loops has."""

    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, MockClock]]:
        return "trio", {"clock": MockClock(autojump_threshold=0)}

    async def test_a_chat_may_wait_for_its_model_and_is_refused_when_that_was_too_long(self) -> None:
        script = ScriptedModel(may_load=anyio.Event())
        async with loading(script, wait_for_load_s=WAIT_S) as (registry, _), anyio.create_task_group() as tasks:
            began_s = anyio.current_time()
            patient = Patient(registry, tasks)
            await patient.caller.done.wait()
            assert anyio.current_time() - began_s == pytest.approx(WAIT_S)
            assert patient.errors == [ModelLoading]

    async def test_a_chat_waits_over_the_failed_tries_of_a_default_model(self) -> None:
        script = ScriptedModel(load_error=SILENT)
        host = Host("o/a", scripts={"o/a": script}, wait_for_load_s=WAIT_S)
        async with host.registry, anyio.create_task_group() as tasks:
            tasks.start_soon(host.load, 10, 10, 10)
            patient = Patient(host.registry, tasks)
            await anyio.sleep(5)
            assert not patient.caller.done.is_set()
            script.load_error = None
            await patient.caller.done.wait()
            assert (patient.errors, patient.has_answer) == ([], True)


async def finish(registry: Registry, script: ScriptedModel) -> None:
    assert script.may_load is not None
    script.may_load.set()


async def unload(registry: Registry, script: ScriptedModel) -> None:
    await registry.unload("o/a")


async def stop(registry: Registry, script: ScriptedModel) -> None:
    registry.close_admission()


async def fail(registry: Registry, script: ScriptedModel) -> None:
    script.load_error = LoadFailed("cursed")
    await finish(registry, script)


@pytest.mark.parametrize(
    ("end", "errors"),
    [(finish, []), (unload, [ModelNotLoaded]), (stop, [ShuttingDown]), (fail, [ModelNotLoaded])],
    ids=["its end", "an unload", "a stop", "a failure"],
)
@pytest.mark.parametrize("is_pending_first", [False, True])
async def test_a_chat_that_waits_for_its_model_is_answered_by_whatever_ends_the_load(
    end: Callable[[Registry, ScriptedModel], object], errors: list[type[NeuronError]], *, is_pending_first: bool
) -> None:
    script = ScriptedModel(may_load=anyio.Event())
    defaults = ("o/a",) if is_pending_first else ()
    host = Host(*defaults, scripts={"o/a": script}, wait_for_load_s=WAIT_S)
    async with host.registry, anyio.create_task_group() as tasks:
        loader = Caller(host.registry)
        if not is_pending_first:
            tasks.start_soon(loader.load)
            await let_others_run()
        patients = [Patient(host.registry, tasks) for _ in range(3)]
        await let_others_run()
        if is_pending_first:
            tasks.start_soon(loader.load)
            await let_others_run()
            if end is not finish:  # else it would be awaited still
                host.tracker.fail_loading("o/a", "whatever")
        assert not any(patient.caller.done.is_set() for patient in patients)
        await end(host.registry, script)  # type: ignore[misc]
        with anyio.fail_after(WAIT_S / 2):
            for patient in patients:
                await patient.caller.done.wait()
        assert [patient.errors for patient in patients] == [errors] * 3
        assert [patient.has_answer for patient in patients] == [not errors] * 3


async def test_a_chat_that_waits_for_a_pending_model_is_answered_when_the_host_stops() -> None:
    host = Host("o/a", scripts={}, wait_for_load_s=WAIT_S)
    async with host.registry, anyio.create_task_group() as tasks:
        patient = Patient(host.registry, tasks)
        await let_others_run()
        assert not patient.caller.done.is_set()
        host.registry.close_admission()
        await let_others_run()
        assert patient.errors == [ShuttingDown]


async def test_a_chat_that_waits_for_a_pending_model_is_answered_when_that_cannot_even_be_tried() -> None:
    host = Host("o/a", scripts={}, wait_for_load_s=WAIT_S)
    async with host.registry, anyio.create_task_group() as tasks:
        patient = Patient(host.registry, tasks)
        await let_others_run()
        host.tracker.fail_loading("o/a", "reboot the host")
        await let_others_run()
        assert patient.errors == [ModelNotLoaded]


async def test_a_chat_that_is_given_up_while_it_waits_leaves_nothing_behind() -> None:
    script = ScriptedModel(may_load=anyio.Event())
    async with loading(script, wait_for_load_s=WAIT_S) as (registry, loader):
        async with anyio.create_task_group() as tasks:
            Patient(registry, tasks)
            await let_others_run()
            tasks.cancel_scope.cancel()
        assert script.may_load is not None
        script.may_load.set()
        await loader.done.wait()
        (load,) = registry.loads()
        assert (load.in_flight, load.queue_depth) == (0, 0)


async def test_nobody_waits_for_a_model_that_nobody_loads() -> None:
    async with Registry([ScriptedHarness()], wait_for_load_s=3600) as registry:
        with anyio.fail_after(30):
            assert type(await refusal_of(registry)) is ModelNotLoaded
