"""What each operation of a registry does with a model in each of its phases: one table for each operation.

`in_phase` brings the model `o/a` into a phase and holds it there. The table in `neuron_lib/registry/phases.py` says the
same in words.
"""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import pytest

from neuron_lib import (
    AlreadyLoaded,
    EngineDead,
    ModelLoading,
    ModelNotLoaded,
    ModelPhase,
    ModelStatus,
    NeuronError,
    Overloaded,
    Registry,
    ShuttingDown,
)
from neuron_lib.errors import LoadCancelled
from neuron_lib.testing import ScriptedHarness, ScriptedModel
from tests.fakes.registry_callers import Caller, reply_text, request, spec
from tests.fakes.turns import let_others_run

pytestmark = pytest.mark.anyio

A = "o/a"
LOADING, SERVING, RECOVERING = ModelPhase.LOADING, ModelPhase.SERVING, ModelPhase.RECOVERING
DRAINING, CLOSING, GONE = ModelPhase.DRAINING, ModelPhase.CLOSING, ModelPhase.GONE
RESIDENT = {SERVING, RECOVERING, DRAINING}


@dataclass
class Reader:
    """Holds a reply and reads nothing before `may_read`."""

    registry: Registry
    may_read: anyio.Event = field(default_factory=anyio.Event)
    errors: list[NeuronError] = field(default_factory=list)

    async def hold(self) -> None:
        try:
            async with self.registry.chat(request(A)) as reply:
                await self.may_read.wait()
                async for _ in reply:
                    pass
        except NeuronError as error:
            self.errors.append(error)


class Scene:
    """A registry with the model in one phase, and those who brought it there. The time for a drain is unlimited."""

    def __init__(self, phase: ModelPhase) -> None:
        self.script = ScriptedModel(
            may_load=anyio.Event() if phase is LOADING else None,
            may_unload=anyio.Event() if phase is CLOSING else None,
        )
        self.harness = ScriptedHarness({A: self.script})
        self.registry = Registry([self.harness], drain_timeout_s=math.inf)
        self.loader, self.unloader = Caller(self.registry), Caller(self.registry)
        self.reader = Reader(self.registry)
        """Holds a reply where the model is resident and still has its requests."""

        self.may_stop = anyio.Event()

    async def host(self) -> None:
        async with self.registry:
            await self.may_stop.wait()

    def phase(self) -> ModelPhase:
        model = self.registry._models.find(A)
        return GONE if model is None else model.phase

    def count(self, word: str) -> int:
        return self.harness.log.count(f"{word} {A}")

    async def let_go(self) -> None:
        """Let everything that is held come to its end."""
        self.reader.may_read.set()
        for gate in (self.script.may_load, self.script.may_unload):
            if gate is not None:
                gate.set()
        await let_others_run(40)


@asynccontextmanager
async def in_phase(phase: ModelPhase) -> AsyncIterator[tuple[Scene, anyio.abc.TaskGroup]]:
    scene = Scene(phase)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(scene.host)
        try:
            await let_others_run()
            tasks.start_soon(scene.loader.load)
            await let_others_run()
            if phase in RESIDENT:
                tasks.start_soon(scene.reader.hold)
                await let_others_run()
            if phase is RECOVERING:
                scene.harness.crash(A)
            if phase in {DRAINING, CLOSING, GONE}:
                tasks.start_soon(scene.unloader.unload)
                await let_others_run()
            assert scene.phase() is phase
            yield scene, tasks
        finally:
            await scene.let_go()
            scene.may_stop.set()


def errors_of(caller: Caller | Reader) -> list[type[NeuronError]]:
    return [type(error) for error in caller.errors]


# --------------------------------------------------------------------------------------------------------- is shown

NOBODY: list[str] = []

SHOWN: dict[ModelPhase, tuple[list[ModelStatus], list[str], list[tuple[str, int]]]] = {
    # listed as; among the loads; among the models that leave, with their requests
    LOADING: ([], [A], []),
    SERVING: ([ModelStatus.LOADED], NOBODY, []),
    RECOVERING: ([ModelStatus.RECOVERING], NOBODY, []),
    DRAINING: ([], NOBODY, [(A, 1)]),
    CLOSING: ([], NOBODY, [(A, 0)]),
    GONE: ([], NOBODY, []),
}


@pytest.mark.parametrize("phase", ModelPhase)
async def test_a_model_is_shown_in_the_list_of_its_phase_and_in_no_other(phase: ModelPhase) -> None:
    listed, loading, unloading = SHOWN[phase]
    async with in_phase(phase) as (scene, _):
        registry = scene.registry
        assert [info.status for info in registry.list_models()] == listed
        assert [load.id for load in registry.loads()] == [A] * len(listed)
        assert [load.model_id for load in registry.loading()] == loading
        assert [(m.model_id, m.running_requests) for m in registry.unloading()] == unloading
        assert not any(m.is_overdue for m in registry.unloading())
        assert registry.lost() == ()
        assert repr(registry) == f"<Registry [{'' if phase is GONE else f'{A} {phase}'}]>"


@pytest.mark.parametrize("phase", ModelPhase)
async def test_a_model_has_an_endpoint_while_it_serves_or_will_serve(phase: ModelPhase) -> None:
    async with in_phase(phase) as (scene, _):
        if phase in {LOADING, SERVING, RECOVERING}:
            assert scene.registry.endpoint(A) == "http://localhost:13131"
        else:
            with pytest.raises(ModelNotLoaded):
                scene.registry.endpoint(A)


# ------------------------------------------------------------------------------------------------------------- chat

CHAT: dict[ModelPhase, type[NeuronError] | None] = {
    LOADING: ModelLoading,
    SERVING: None,
    RECOVERING: Overloaded,  # by the harness: another one may let the request wait
    DRAINING: ModelNotLoaded,
    CLOSING: ModelNotLoaded,
    GONE: ModelNotLoaded,
}


@pytest.mark.parametrize("phase", ModelPhase)
async def test_a_chat_is_answered_or_refused_when_it_is_entered(phase: ModelPhase) -> None:
    async with in_phase(phase) as (scene, _):
        reply, refusal = scene.registry.chat(request(A)), CHAT[phase]
        if refusal is None:
            assert await reply_text(scene.registry, A) == "Hello, world!"
            return
        with pytest.raises(refusal) as raised:
            await reply.__aenter__()
        assert type(raised.value) is refusal


# ------------------------------------------------------------------------------------------------------------- load


@pytest.mark.parametrize("phase", ModelPhase)
async def test_two_more_loads_of_a_model_join_its_load_or_wait_until_it_is_gone(phase: ModelPhase) -> None:
    async with in_phase(phase) as (scene, tasks):
        callers = [Caller(scene.registry), Caller(scene.registry)]
        for caller in callers:
            tasks.start_soon(caller.load)
        await let_others_run()
        has_to_wait = phase in {LOADING, DRAINING, CLOSING}
        assert [caller.done.is_set() for caller in callers] == [not has_to_wait] * 2
        await scene.let_go()
        is_loaded_anew = phase in {DRAINING, CLOSING, GONE}
        assert scene.count("open") == 2 if is_loaded_anew else 1
        assert sorted(len(caller.loaded) for caller in callers) == [0, 1 if is_loaded_anew else 0]
        assert {error for caller in callers for error in errors_of(caller)} == {AlreadyLoaded}
        assert all("already loaded" in error.message for caller in callers for error in caller.errors)
        assert scene.loader.loaded == [A]
        assert [info.id for info in scene.registry.list_models()] == [A]


# ----------------------------------------------------------------------------------------------------------- unload

UNLOAD: dict[ModelPhase, tuple[ModelPhase, list[type[NeuronError]], list[type[NeuronError]]]] = {
    # the phase then; what the caller hears, in the end; what the reader hears, in the end
    LOADING: (GONE, [], []),
    SERVING: (DRAINING, [], []),
    RECOVERING: (GONE, [], [EngineDead]),
    DRAINING: (DRAINING, [], []),
    CLOSING: (CLOSING, [], []),
    GONE: (GONE, [ModelNotLoaded], []),
}


@pytest.mark.parametrize("phase", ModelPhase)
async def test_an_unload_returns_when_the_model_is_gone(phase: ModelPhase) -> None:
    then, told, reader_told = UNLOAD[phase]
    async with in_phase(phase) as (scene, tasks):
        caller = Caller(scene.registry)
        tasks.start_soon(caller.unload)
        await let_others_run()
        assert scene.phase() is then
        assert caller.done.is_set() is (then is GONE)
        await scene.let_go()
        assert (caller.done.is_set(), errors_of(caller), scene.phase()) == (True, told, GONE)
        assert errors_of(scene.reader) == reader_told
        assert errors_of(scene.loader) == ([LoadCancelled] if phase is LOADING else [])
        assert scene.count("open") == scene.count("close") == 1


# ----------------------------------------------------------------------------------------- the end of a model's engine

DEATH: dict[ModelPhase, bool] = {SERVING: True, RECOVERING: True, DRAINING: False}
"""Whether the model counts as lost. In the other phases it has no engine."""


@pytest.mark.parametrize("phase", DEATH)
async def test_a_model_that_dies_is_gone_at_once_and_lost_unless_it_was_to_go_anyway(phase: ModelPhase) -> None:
    async with in_phase(phase) as (scene, _):
        scene.script.dies.set()
        await let_others_run()
        assert scene.phase() is GONE
        assert [lost.model_id for lost in scene.registry.lost()] == ([A] if DEATH[phase] else [])
        assert errors_of(scene.unloader) == []
        await scene.let_go()
        assert errors_of(scene.reader) == [EngineDead]


# ------------------------------------------------------------------------------------- requests that wait meanwhile

WAITING: dict[str, dict[str, type[NeuronError] | None]] = {
    # what ends the model: what is heard by a request that is being prepared, that waits for a seat, that runs
    "an unload": {"its preparation": ModelNotLoaded, "a seat": ModelNotLoaded, "its next token": None},
    "the close of admission": {"its preparation": ShuttingDown, "a seat": ShuttingDown, "its next token": None},
    "its death": {"its preparation": EngineDead, "a seat": Overloaded, "its next token": EngineDead},
    "the end of the registry": {
        "its preparation": ShuttingDown,
        "a seat": ShuttingDown,
        "its next token": ShuttingDown,
    },
}


@pytest.mark.parametrize("waits_for", ["its preparation", "a seat", "its next token"])
@pytest.mark.parametrize("end", WAITING)
async def test_a_request_hears_at_once_that_it_waits_in_vain_and_a_running_one_goes_on_where_it_can(
    end: str, waits_for: str
) -> None:
    scene = Scene(SERVING)
    caller = Caller(scene.registry)
    scene.script.max_in_flight = 1
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(scene.host)
        await let_others_run()
        await scene.registry.load(spec(A))
        match waits_for:
            case "its preparation":
                scene.script.may_prepare = anyio.Event()
            case "a seat":
                tasks.start_soon(scene.reader.hold)
                await let_others_run()
            case _:
                scene.script.may_speak = anyio.Event()
        tasks.start_soon(caller.chat)
        await let_others_run()
        match end:
            case "an unload":
                tasks.start_soon(scene.unloader.unload)
            case "the close of admission":
                scene.registry.close_admission()
            case "its death":
                scene.script.dies.set()
            case _:
                scene.may_stop.set()
        await let_others_run()
        error = WAITING[end][waits_for]
        assert (caller.done.is_set(), errors_of(caller)) == ((False, []) if error is None else (True, [error]))
        if scene.script.may_speak is not None:
            scene.script.may_speak.set()
        await scene.let_go()
        assert (caller.done.is_set(), errors_of(caller)) == (True, [] if error is None else [error])
        scene.may_stop.set()


# ------------------------------------------------------------------------------------------------- the end of a host

CLOSED: dict[ModelPhase, tuple[ModelPhase, bool, bool]] = {
    # the phase then; whether it is listed until the end; whether it has an endpoint until it is gone
    LOADING: (GONE, False, False),
    SERVING: (SERVING, True, True),
    RECOVERING: (RECOVERING, True, True),
    DRAINING: (DRAINING, False, True),
    CLOSING: (CLOSING, False, True),
    GONE: (GONE, False, False),
}


@pytest.mark.parametrize("phase", ModelPhase)
async def test_when_admission_closes_only_loads_are_cancelled(phase: ModelPhase) -> None:
    then, is_listed, has_endpoint = CLOSED[phase]
    async with in_phase(phase) as (scene, _):
        scene.registry.close_admission()
        await let_others_run()
        assert scene.phase() is then
        listed = [(info.id, info.status) for info in scene.registry.list_models()]
        assert listed == ([(A, ModelStatus.RECOVERING)] if is_listed else [])
        if has_endpoint:
            assert scene.registry.endpoint(A) == scene.registry.endpoint_url
        else:
            with pytest.raises(ModelNotLoaded):
                scene.registry.endpoint(A)
        with pytest.raises(ShuttingDown):
            await reply_text(scene.registry, A)
        with pytest.raises(ShuttingDown):
            await scene.registry.load(spec("o/b"))
        assert errors_of(scene.loader) == ([ShuttingDown] if phase is LOADING else [])
        await scene.let_go()
        ends_early = phase is RECOVERING
        assert errors_of(scene.reader) == ([EngineDead] if ends_early else [])


@pytest.mark.parametrize("phase", ModelPhase)
async def test_when_the_registry_is_left_nobody_waits_for_requests(phase: ModelPhase) -> None:
    async with in_phase(phase) as (scene, _):
        if scene.script.may_unload is not None:
            scene.script.may_unload.set()
        scene.may_stop.set()
        await let_others_run(40)
        assert scene.phase() is GONE
        assert scene.count("open") == scene.count("close") == 1
        assert errors_of(scene.loader) == ([ShuttingDown] if phase is LOADING else [])
        assert errors_of(scene.unloader) == []
        await scene.let_go()
        assert errors_of(scene.reader) == ([ShuttingDown] if phase in RESIDENT else [])
