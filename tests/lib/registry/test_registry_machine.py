"""Whatever is done to a registry, in any order and at any moment, its promises hold (reliability: I3, I4, I8, I12).

A real registry runs on a real event loop, in a thread, on a clock that moves only when a rule says so. The rules do
to it what operators, clients and engines do; after each of them everybody gets on as far as possible.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, MutableSequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, TypeAlias

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trio._core import _run as trio_run
from trio.testing import MockClock

from neuron_lib import (
    ActivationTracker,
    AlreadyLoaded,
    EngineDead,
    Finished,
    GenerationEvent,
    LoadFailed,
    ModelNotLoaded,
    ModelStatus,
    NeuronError,
    Overloaded,
    Registry,
    ShuttingDown,
    SourceUnavailable,
    UnloadFailed,
)
from neuron_lib.errors import EngineFailed
from neuron_lib.registry.hosted_model import HostedModel
from neuron_lib.testing import ScriptedHarness, ScriptedModel
from tests.examples import examples
from tests.fakes.registry_callers import request, spec
from tests.fakes.turns import let_others_run
from tests.patience import PATIENCE_S

IDS = ("o/a", "o/b")
DRAIN_S = 60.0
UNLOAD_S = 20.0
NEWS_S = 5.0
TICK_S = 1.0
LONGEST_UNLOAD_S = DRAIN_S + UNLOAD_S + NEWS_S + 2 * TICK_S
SEATS = 2
TURNS = 40
TICK_TURNS = 8
STAGES = ("open", "loaded", "close")

a_model = st.sampled_from(IDS)

LOADS: tuple[type[NeuronError], ...] = (LoadFailed, SourceUnavailable, UnloadFailed, ShuttingDown)
UNLOADS: tuple[type[NeuronError], ...] = (ModelNotLoaded, UnloadFailed)
# A `ModelLoading` is a `ModelNotLoaded`.
CHATS: tuple[type[NeuronError], ...] = (ModelNotLoaded, EngineDead, EngineFailed, Overloaded, ShuttingDown)

MakeError: TypeAlias = Callable[[], Exception | None]


class FrozenLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock moves only when it is told to."""

    def __init__(self) -> None:
        self.now_s = 0.0  # the constructor asks for the time
        super().__init__()

    def time(self) -> float:
        return self.now_s

    def jump(self, seconds: float) -> None:
        self.now_s += seconds


class OneOrder(Random):
    """Trio asks it in each turn for the order of the tasks that can run: one of two ways, which hypothesis chooses."""

    def __init__(self, *, backwards: bool) -> None:
        super().__init__()
        self.backwards = backwards

    def random(self) -> float:
        return 0.25 if self.backwards else 0.75

    def shuffle(self, x: MutableSequence[Any]) -> None:
        if self.backwards:
            x.reverse()


@contextmanager
def one_order_of_tasks(*, backwards: bool) -> Iterator[None]:
    """Trio runs tasks in an order by chance. How often it asks for one depends on the machine; an example must not."""
    by_chance = trio_run._r
    trio_run._r = OneOrder(backwards=backwards)
    try:
        yield
    finally:
        trio_run._r = by_chance


@dataclass(eq=False)
class Client:
    """One call of the registry and what came of it."""

    kind: str
    model_id: str
    asked_s: float
    may_fail_with: tuple[type[NeuronError], ...]
    met: HostedModel | None = None
    """What it met when it asked."""
    has_entered: bool = False
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    events: list[GenerationEvent] = field(default_factory=list)
    error: BaseException | None = None
    is_over: bool = False

    @property
    def was_cancelled(self) -> bool:
        return self.scope.cancelled_caught

    @property
    def succeeded(self) -> bool:
        return self.is_over and self.error is None and not self.was_cancelled


class World:
    """A registry, its backend and everybody who calls it. Lives in the event loop; the machine calls in.

    The models of `expected` are default models, which nobody loads by themselves here.
    """

    def __init__(self, jump: Callable[[float], None], patience_s: float, expected: set[str]) -> None:
        self.jump = jump
        self.patience_s = patience_s
        self.harness = ScriptedHarness()
        self.registry = Registry(
            [self.harness],
            drain_timeout_s=DRAIN_S,
            unload_timeout_s=UNLOAD_S,
            wait_for_load_s=patience_s,
            clock=anyio.current_time,
        )
        self.tracker = ActivationTracker([spec(model_id) for model_id in sorted(expected)], clock=anyio.current_time)
        self.registry.follow(self.tracker)
        self.listed_at_close: list[str] = []
        self.clients: list[Client] = []
        self.is_closing = False
        self.over = anyio.Event()
        self.started = anyio.Event()
        self.tasks: anyio.abc.TaskGroup | None = None

    async def live(self) -> None:
        async with anyio.create_task_group() as self.tasks, self.registry:
            self.started.set()
            await self.over.wait()

    async def settle(self) -> None:
        await let_others_run(TURNS)

    async def do(self, act: Callable[[], None]) -> None:
        act()
        await self.settle()

    async def pass_time(self, seconds: float) -> None:
        """In steps, because a clock that jumps shows only the last of the things that were due."""
        for _ in range(round(seconds / TICK_S)):
            self.jump(TICK_S)
            await let_others_run(TICK_TURNS)
        await self.settle()

    # --- the calls

    def script(self, model_id: str) -> ScriptedModel:
        return self.harness.scripts.setdefault(model_id, ScriptedModel())

    def counts(self, word: str, model_id: str) -> int:
        return self.harness.log.count(f"{word} {model_id}")

    def start(self, kind: str, model_id: str) -> None:
        acts, errors = {
            "load": (self.load, LOADS),
            "unload": (self.unload, UNLOADS),
            "chat": (self.chat, CHATS),
            "silent chat": (self.chat_silently, CHATS),
        }[kind]
        client = Client(kind, model_id, anyio.current_time(), errors)
        self.clients.append(client)
        assert self.tasks is not None  # alive
        self.tasks.start_soon(self.call, client, acts(client))

    async def call(self, client: Client, act: Coroutine[Any, Any, None]) -> None:
        client.met = self.registry._models.get(client.model_id)
        try:
            with client.scope:
                await act
        except Exception as error:  # noqa: BLE001 - which errors may come is for the invariants to say
            client.error = error
        client.is_over = True

    async def load(self, client: Client) -> None:
        met_serving = client.met is not None and client.met.serves
        loaded_before = self.counts("loaded", client.model_id)
        try:
            await self.registry.load(spec(client.model_id))
        except AlreadyLoaded:
            assert met_serving or self.counts("loaded", client.model_id) > loaded_before, "it was never loaded"
            raise

    async def unload(self, client: Client) -> None:
        opened_before = self.counts("open", client.model_id)
        await self.registry.unload(client.model_id)
        assert self.counts("close", client.model_id) >= opened_before, "an unload returned before its model was closed"

    async def chat(self, client: Client) -> None:
        async with self.registry.chat(request(client.model_id)) as generation:
            client.has_entered = True
            async for event in generation:
                client.events.append(event)

    async def chat_silently(self, client: Client) -> None:
        """Hold a reply and read nothing until cancelled."""
        async with self.registry.chat(request(client.model_id)):
            client.has_entered = True
            await anyio.sleep_forever()

    def waiting(self, *kinds: str) -> list[Client]:
        return [client for client in self.clients if not client.is_over and client.kind in kinds]

    def open_gates(self) -> None:
        for script in self.harness.scripts.values():
            for gate in (script.may_load, script.may_prepare, script.may_speak, script.may_unload):
                if gate is not None:
                    gate.set()

    def give_up(self) -> None:
        """Let everybody go who can."""
        self.open_gates()
        for client in self.waiting("load", "unload", "chat", "silent chat"):
            client.scope.cancel()

    # --- what must be true, at any moment

    async def check(self) -> None:
        self.check_single_flight()
        self.check_absences()
        self.check_activation()
        self.check_endings()
        self.check_bounds()
        self.check_lists()
        self.check_idle()
        await self.check_that_listed_models_serve()

    def check_single_flight(self) -> None:
        """I12."""
        for model_id in IDS:
            resident = 0
            for entry in self.harness.log:
                resident += {f"open {model_id}": 1, f"close {model_id}": -1}.get(entry, 0)
                assert resident in {0, 1}, self.harness.log

    def check_endings(self) -> None:
        """I3: a whole reply or one error of the kind that its caller was promised; success means what it says."""
        for client in self.clients:
            if not client.is_over:
                continue
            if client.error is not None:
                assert isinstance(client.error, client.may_fail_with), client
            elif client.succeeded and client.kind == "chat":
                assert isinstance(client.events[-1], Finished)
        answers: dict[int, set[type | None]] = {}
        for client in self.clients:
            if client.kind == "unload" and client.met is not None and client.is_over and not client.was_cancelled:
                answers.setdefault(id(client.met), set()).add(None if client.error is None else type(client.error))
        assert all(len(said) == 1 for said in answers.values()), "two unloads of one model were answered differently"

    def check_bounds(self) -> None:
        now_s = anyio.current_time()
        for client in self.waiting("unload"):
            assert now_s - client.asked_s <= LONGEST_UNLOAD_S, client
        for leaving in self.registry.unloading():
            assert leaving.elapsed_ms <= LONGEST_UNLOAD_S * 1000, leaving
            may_unload = self.script(leaving.model_id).may_unload
            is_held = may_unload is not None and not may_unload.is_set()
            assert leaving.running_requests or is_held, f"nothing holds {leaving}"
            for client in self.waiting("chat", "silent chat"):
                is_refused = client.model_id == leaving.model_id and not self.will_load(client.model_id)
                assert client.has_entered or not is_refused, "a request waits for what is leaving"
        assert self.registry.tick_age_s() <= TICK_S

    def check_lists(self) -> None:
        """A model is in one list at most, and only one that has been loaded is listed as serving.

        While the host stops, those that served then are listed as recovering, whatever becomes of them.
        """
        if self.is_closing:
            listed = self.registry.list_models()
            assert [info.id for info in listed] == self.listed_at_close
            assert {info.status for info in listed} <= {ModelStatus.RECOVERING}
            assert self.registry.loading() == ()
            assert set(self.registry.loaded_unix_s()) >= set(self.listed_at_close)
            return
        serving = [info.id for info in self.registry.list_models()]
        assert sorted(self.registry.loaded_unix_s()) == sorted(serving + self.leaving_after_service())
        loading = [load.model_id for load in self.registry.loading()]
        leaving = [model.model_id for model in self.registry.unloading()]
        everywhere = serving + loading + leaving
        assert len(everywhere) == len(set(everywhere))
        assert [load.id for load in self.registry.loads()] == serving
        for model_id in serving:
            life = [entry for entry in self.harness.log if entry in {f"{word} {model_id}" for word in STAGES}]
            assert life[-1] == f"loaded {model_id}"
        assert not {lost.model_id for lost in self.registry.lost()} & set(serving)

    def leaving_after_service(self) -> list[str]:
        return [m.model_id for m in self.registry._models.values() if m.has_loaded and m.is_leaving]

    def check_absences(self) -> None:
        """A chat waits only for a model that will serve without anybody's doing, and not longer than it may."""
        loading = {load.model_id for load in self.registry.loading()}
        for client in self.waiting("chat", "silent chat"):
            model = self.registry._models.get(client.model_id)
            if client.has_entered or (model is not None and model.serves):
                continue
            assert client.model_id in loading or self.will_load(client.model_id), client
            assert anyio.current_time() - client.asked_s <= self.patience_s, client
            assert not self.is_closing
        listed = {info.id for info in self.registry.list_models()}
        for model_id in IDS:
            if model_id in loading | listed or self.will_load(model_id):
                assert self.registry.endpoint(model_id) == self.registry.endpoint_url

    def will_load(self, model_id: str) -> bool:
        """Whether a load of it waits for its turn, or until it has left."""
        return self.tracker.awaits(model_id) or any(client.model_id == model_id for client in self.waiting("load"))

    def check_activation(self) -> None:
        """No model that serves is still awaited, and none that was never loaded has completed."""
        snapshot = self.tracker.snapshot()
        for model_id in snapshot.pending:
            assert model_id not in [load.id for load in self.registry.loads()]
        for model_id in snapshot.completed:
            assert self.counts("loaded", model_id) > 0

    def check_idle(self) -> None:
        """I4."""
        if self.waiting("chat", "silent chat"):
            return
        for load in self.registry.loads():
            assert (load.in_flight, load.queue_depth) == (0, 0), load
        for model in self.registry._models.values():
            assert repr(model.leases) == "<Leases 0, 0 of them entering>"

    async def check_that_listed_models_serve(self) -> None:
        """I8: a request to a listed model is admitted, waits for room or for a recovery; it is not unknown or dead."""
        for info in self.registry.list_models():
            probe = Client("chat", info.id, 0.0, CHATS)
            assert self.tasks is not None
            self.tasks.start_soon(self.call, probe, self.chat(probe))
            await self.settle()
            probe.scope.cancel()
            await self.settle()
            assert probe.is_over
            match probe.error:
                case None:
                    pass
                case ShuttingDown() if self.is_closing:
                    pass
                case Overloaded() if info.status is ModelStatus.RECOVERING or self.waiting("chat", "silent chat"):
                    pass
                case EngineFailed():  # as its script says
                    pass
                case _:
                    raise AssertionError(probe)


LOAD_ERRORS: dict[str, MakeError] = {
    "serves": lambda: None,
    "fails": lambda: LoadFailed("too big"),
    "is unavailable": lambda: SourceUnavailable("the hub is silent", model_id="o/x"),
    "has a bug": lambda: ZeroDivisionError("oops"),
}
UNLOAD_ERRORS: dict[str, MakeError] = {
    "goes": lambda: None,
    "cannot go": lambda: UnloadFailed("process 7 cannot be killed", model_id="o/a"),
    "has a bug": lambda: ZeroDivisionError("oops"),
}


class RegistryMachine(RuleBasedStateMachine):
    backend: str

    def __init__(self) -> None:
        super().__init__()
        self.held = ExitStack()

    @initialize(patience_s=st.sampled_from([0.0, 30.0]), expected=st.sets(a_model), backwards=st.booleans())
    def begin(self, patience_s: float, expected: set[str], *, backwards: bool) -> None:
        self.portal, jump = self.open_portal(backwards=backwards)
        self.world = self.portal.call(World, jump, patience_s, expected)
        self.life: Future[None] = self.portal.start_task_soon(self.world.live)
        self.portal.call(self.world.started.wait)

    def open_portal(self, *, backwards: bool) -> tuple[BlockingPortal, Callable[[float], None]]:
        if self.backend == "trio":
            self.held.enter_context(one_order_of_tasks(backwards=backwards))
            clock = MockClock()
            return self.held.enter_context(start_blocking_portal("trio", {"clock": clock})), clock.jump
        loop = FrozenLoop()
        return self.held.enter_context(start_blocking_portal("asyncio", {"loop_factory": lambda: loop})), loop.jump

    def do(self, act: Callable[[], None]) -> None:
        self.portal.call(self.world.do, act)

    # --- what is going to happen

    @rule(
        model_id=a_model,
        load=st.sampled_from(sorted(LOAD_ERRORS)),
        unload=st.sampled_from(sorted(UNLOAD_ERRORS)),
        waits=st.sets(st.sampled_from(["may_load", "may_prepare", "may_speak", "may_unload"])),
    )
    def write_a_script(self, model_id: str, load: str, unload: str, waits: set[str]) -> None:
        def write() -> None:
            old = self.world.script(model_id)
            for gate in (old.may_load, old.may_prepare, old.may_speak, old.may_unload):
                if gate is not None:
                    gate.set()
            script = ScriptedModel(
                load_error=LOAD_ERRORS[load](),
                unload_error=UNLOAD_ERRORS[unload](),
                max_in_flight=SEATS,
                max_queue_depth=1,
            )
            for wait in waits:
                setattr(script, wait, anyio.Event())
            self.world.harness.scripts[model_id] = script

        self.do(write)

    # --- who calls

    @rule(model_id=a_model)
    def load(self, model_id: str) -> None:
        self.do(lambda: self.world.start("load", model_id))

    @rule(model_id=a_model)
    def load_twice(self, model_id: str) -> None:
        def load() -> None:
            self.world.start("load", model_id)
            self.world.start("load", model_id)

        self.do(load)

    @rule(model_id=a_model, stays=st.sampled_from(["nobody", "a reader", "the harness"]))
    def serve_and_leave(self, model_id: str, stays: str) -> None:
        self.do(partial(self.world.start, "load", model_id))
        if stays == "a reader":
            self.do(partial(self.world.start, "silent chat", model_id))
        if stays == "the harness":
            self.do(partial(self.hold_unload, model_id))
        self.do(partial(self.world.start, "unload", model_id))

    def hold_unload(self, model_id: str) -> None:
        """By the gate at which one may wait already: another one in its place would leave nobody to open that."""
        script = self.world.script(model_id)
        if script.may_unload is None or script.may_unload.is_set():
            script.may_unload = anyio.Event()

    @rule(model_id=a_model, at=st.sampled_from(["its preparation", "the queue", "its reply"]))
    def give_up(self, model_id: str, at: str) -> None:
        self.do(partial(self.world.start, "load", model_id))
        if at == "its preparation":
            self.do(lambda: setattr(self.world.script(model_id), "may_prepare", anyio.Event()))
        for _ in range(SEATS if at == "the queue" else 0):
            self.do(partial(self.world.start, "silent chat", model_id))
        self.do(partial(self.world.start, "silent chat", model_id))
        self.do(self.world.clients[-1].scope.cancel)

    @rule(model_id=a_model)
    def unload(self, model_id: str) -> None:
        self.do(lambda: self.world.start("unload", model_id))

    @rule(model_id=a_model, kind=st.sampled_from(["chat", "silent chat"]))
    def chat(self, model_id: str, kind: str) -> None:
        self.do(lambda: self.world.start(kind, model_id))

    @rule(
        model_id=a_model,
        kinds=st.lists(st.sampled_from(["load", "unload", "chat", "silent chat"]), min_size=2, max_size=4),
        is_dying=st.booleans(),
    )
    def call_all_at_once(self, model_id: str, kinds: list[str], *, is_dying: bool) -> None:
        def call() -> None:
            for kind in kinds:
                self.world.start(kind, model_id)
            if is_dying:
                self.world.script(model_id).dies.set()
                self.world.open_gates()

        self.do(call)

    @precondition(lambda self: self.world.waiting("load", "unload", "chat", "silent chat"))
    @rule(data=st.data())
    def cancel_a_caller(self, data: st.DataObject) -> None:
        waiting = self.world.waiting("load", "unload", "chat", "silent chat")
        index = data.draw(st.integers(0, len(waiting) - 1))
        self.do(waiting[index].scope.cancel)

    # --- what engines do

    @rule(model_id=a_model, gate=st.sampled_from(["may_load", "may_prepare", "may_speak", "may_unload"]))
    def open_a_gate(self, model_id: str, gate: str) -> None:
        def set_event() -> None:
            event: anyio.Event | None = getattr(self.world.script(model_id), gate)
            if event is not None:
                event.set()

        self.do(set_event)

    @rule(model_id=a_model)
    def die(self, model_id: str) -> None:
        was_resident = model_id in self.world.harness._resident
        loads_before = self.world.counts("loaded", model_id)

        def die() -> None:
            if was_resident:
                self.world.harness._resident[model_id].script.dies.set()

        self.do(die)
        # Where somebody waits for it to go, the next one may have come.
        if was_resident and self.world.counts("loaded", model_id) == loads_before:
            assert model_id not in [load.id for load in self.world.registry.loads()], "a dead model serves"
            if not self.world.is_closing:
                assert model_id not in [info.id for info in self.world.registry.list_models()], "a dead model is listed"
        self.do(lambda: self.revive(model_id))

    def revive(self, model_id: str) -> None:
        """Whoever loads it next gets one that lives."""
        if self.world.script(model_id).dies.is_set():
            self.world.script(model_id).dies = anyio.Event()

    @rule(model_id=a_model)
    def crash(self, model_id: str) -> None:
        if model_id in self.world.harness._resident:
            self.do(lambda: self.world.harness.crash(model_id))

    @rule(model_id=a_model)
    def recover(self, model_id: str) -> None:
        if model_id in self.world.harness._resident:
            self.do(lambda: self.world.harness.recover(model_id))

    @rule(seconds=st.sampled_from([1, 25, 90]))
    def wait(self, seconds: int) -> None:
        self.portal.call(self.world.pass_time, seconds)

    # --- the end

    @rule()
    @precondition(lambda self: not self.world.is_closing)
    def close_admission(self) -> None:
        def close() -> None:
            self.world.is_closing = True
            self.world.listed_at_close = [info.id for info in self.world.registry.list_models()]
            self.world.registry.close_admission()

        self.do(close)

    @invariant()
    def promises_hold(self) -> None:
        self.portal.call(self.world.check)

    def teardown(self) -> None:
        if not hasattr(self, "portal"):
            return
        world = self.world
        try:
            self.portal.call(world.pass_time, LONGEST_UNLOAD_S)
            assert world.waiting("unload") == []
            self.do(world.over.set)
            self.portal.call(world.pass_time, LONGEST_UNLOAD_S)
            assert repr(world.registry) == "<Registry []>"
            for model_id in IDS:
                assert world.counts("open", model_id) == world.counts("close", model_id)
            assert world.waiting("load", "unload", "chat") == []
            self.portal.call(world.check_endings)
        finally:
            self.do(world.give_up)
            try:
                self.life.result(timeout=PATIENCE_S)
            finally:
                self.life.cancel()
                self.held.close()


class OnAsyncio(RegistryMachine):
    backend = "asyncio"


class OnTrio(RegistryMachine):
    backend = "trio"


# How fast examples are made up says more about the machine than about the code.
OnAsyncio.TestCase.settings = OnTrio.TestCase.settings = settings(
    max_examples=examples(50), stateful_step_count=25, suppress_health_check=[HealthCheck.too_slow]
)
TestOnAsyncio = OnAsyncio.TestCase
TestOnTrio = OnTrio.TestCase
