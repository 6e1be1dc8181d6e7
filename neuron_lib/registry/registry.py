"""The models of one host: loads, unloads and lists them, and leases them to requests.

Each model is one `HostedModel` in a task of the registry. So a caller that goes away only stops waiting. Everything
that a model has is released at the end of one `async with`. The registry knows backends only by the protocol in
`neuron_lib.harness`.
"""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Final, Self

import anyio
from anyio.lowlevel import checkpoint

from neuron_lib.errors import (
    AlreadyLoaded,
    LoadCancelled,
    ModelLoading,
    ModelNotLoaded,
    NeuronError,
    PreflightFailed,
    ShuttingDown,
)
from neuron_lib.harness import Harness, LoadedModel, MeasuredModel, Reply
from neuron_lib.logs import FieldLogger, get_logger
from neuron_lib.registry.absent_models import AbsentModels
from neuron_lib.registry.event_log import EventLog, HostEvents
from neuron_lib.registry.farewell import Farewell
from neuron_lib.registry.harnesses import Harnesses
from neuron_lib.registry.hosted_model import HostedModel
from neuron_lib.registry.hosted_models import HostedModels, HostLimits
from neuron_lib.registry.leased_reply import LeasedReply
from neuron_lib.registry.making_room import Needs
from neuron_lib.registry.phases import Event
from neuron_lib.registry.reply_readers import log_reply
from neuron_lib.registry.reporter import Reporter
from neuron_lib.registry.residency import Residency
from neuron_lib.registry.residency_rules import ResidencyRules
from neuron_lib.registry.startup import ActivationTracker
from neuron_lib.registry.way_in import WayIn
from neuron_lib.types import (
    Chat,
    Complete,
    Embed,
    EndedLoad,
    EndedReply,
    EngineMeasures,
    FailedLoad,
    HostEvent,
    HostState,
    LoadingModel,
    MemoryPlan,
    ModelInfo,
    ModelLoad,
    ModelSpec,
    ResidencyCounts,
    Task,
    UnloadingModel,
    public_id,
)

__all__ = ("Registry",)

logger: FieldLogger = get_logger(__name__)

_ON_UNLOADED_LIMIT_S: Final = 5.0
"""The unload returns after this time, whatever `on_unloaded` does."""


async def _nothing_measured() -> Needs:
    """On a host whose memory nobody measures, the limits alone count."""
    return {}


class Registry:
    """The models of one host. Use it as `async with Registry([harness]) as registry`, from one event loop.

    Methods without `async` only look at memory, and never wait. Leaving the block refuses requests that wait, ends
    running replies, cancels loads and unloads every model.
    """

    def __init__(
        self,
        harnesses: Iterable[Harness] = (),
        *,
        endpoint_url: str = "http://localhost:13131",
        drain_timeout_s: float = 60.0,
        unload_timeout_s: float = 20.0,
        max_loads: int = 64,
        wait_for_load_s: float = 0.0,
        residency: ResidencyRules | None = None,
        capacity: Callable[[], Needs] = dict,
        available: Callable[[], Awaitable[Needs]] = _nothing_measured,
        before_load: Callable[[], Awaitable[None]] = checkpoint,
        on_unloaded: Callable[[], Awaitable[None]] | None = None,
        on_reply: Callable[[EndedReply], None] | None = None,
        on_load: Callable[[EndedLoad], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`endpoint_url` is what `endpoint` answers.

        An unload waits up to `drain_timeout_s` for running requests, and then up to `unload_timeout_s` for the harness
        to release the model. At most `max_loads` loads run at the same time, including loads that wait. A chat with a
        model that is being loaded, or will be, waits up to `wait_for_load_s` for the model. After that it is refused
        with `ModelLoading`.

        `residency` says what the host does by itself about its models; by default nothing. `capacity` says the bytes
        that all models together may take on each device, which is looked at before each load that may have to wait for
        room. A device that it does not name has no limit. `available` measures the bytes that all models together could
        have on each device at that moment: what is free, and what the models of this registry have. It counts where it
        is less than `capacity`, for 5 s at most. `before_load` is awaited before each such load, and may raise
        a `NeuronError`, which is then why the load fails.

        `on_unloaded` is awaited, for 5 s at most, when the memory of a model is back and before the unload returns.
        It may read the devices again. `on_reply` is called once for each reply that was entered, at the end of its
        block, and `on_load` once at the end of each load, however it ends. Neither may wait. An exception of these
        three is logged and goes no further. `clock` gives seconds for the times of loads, unloads and replies.
        """
        self.endpoint_url = endpoint_url
        self.limits: HostLimits = HostLimits(
            drain_timeout_s=drain_timeout_s, unload_timeout_s=unload_timeout_s, max_loads=max_loads
        )
        self.wait_for_load_s = wait_for_load_s
        self._on_unloaded = on_unloaded
        self._on_reply = on_reply
        self._before_load = before_load
        self._on_load = on_load
        self._clock = clock
        self._events = EventLog()
        self._reporter = Reporter(self._events)
        self._harnesses = Harnesses()
        self._absent = AbsentModels()
        self._models = HostedModels(
            limits=self.limits,
            clock=clock,
            on_change=self._note,
            on_idle=self._note_idle,
            on_load=self._tell_of_load,
            on_released=self._tell_of_unload,
            on_tick=self._look,
        )
        self._residency = Residency(
            residency or ResidencyRules(),
            models=self._models,
            start=self._start_load,
            need_of=self._need_of,
            capacity=capacity,
            available=available,
            clock=clock,
        )
        self._way_in = WayIn(
            self._models,
            self._absent,
            self._residency,
            is_leaving=lambda: self._farewell is not None,
            is_stopping=lambda: not self._admits_requests,
        )
        self._farewell: Farewell | None = None  # None as long as loads are admitted
        self._admits_requests = True
        for harness in harnesses:
            self.register(harness)

    def __repr__(self) -> str:
        return f"<Registry [{', '.join(f'{model.model_id} {model.phase}' for model in self._models.values())}]>"

    async def __aenter__(self) -> Self:
        await self._models.__aenter__()
        self._models.start_soon(self._residency.run, name="residency")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            self.close_admission()
        finally:
            await self._models.__aexit__(exc_type, exc, tb)
            self._events.close()
        self._farewell = Farewell((), {})

    def set_residency(self, rules: ResidencyRules) -> None:
        """Decide by `rules` from now on which models are loaded and unloaded. The registry must have been entered."""
        self._residency.replace(rules)
        self._models.start_soon(self._residency.run, name="residency")

    def register(self, harness: Harness, *, aliases: Iterable[str] = ()) -> None:
        """Make a harness available under its name and `aliases`; the latest registration of a name counts."""
        self._harnesses.register(harness, aliases=aliases)

    @property
    def harness_names(self) -> tuple[str, ...]:
        """The registered harnesses' own names."""
        return self._harnesses.names

    @property
    def can_choose_harness(self) -> bool:
        """Whether a load need not name a harness: there is one at most, or the files of a model decide."""
        return self._harnesses.can_choose

    @property
    def makes_room(self) -> bool:
        """Whether a load that does not fit waits until idle models have been unloaded for it."""
        return self._residency.rules.makes_room

    @property
    def loads_on_demand(self) -> bool:
        """Whether a request can load a model."""
        return bool(self._residency.rules.on_demand)

    def follow(self, activation: ActivationTracker) -> None:
        """Count the models that `activation` awaits as models that will be loaded. `load_default_models` calls this.

        As soon as such a model serves, it is completed in `activation`, even if another caller loaded it.
        """
        self._absent.activation = activation
        for model in self._models.values():
            self._absent.note(model)

    # ----------------------------------------------------------------------------------------- loading, unloading

    async def load(self, spec: ModelSpec, *, may_displace: bool = True) -> ModelInfo:
        """Load a model and wait until it serves.

        If the rules of residency make room, the load waits until there is room. Without `may_displace` no other model
        is unloaded for it.

        Loads of one id are single-flight: a second caller waits for the load of the first, and is then told
        `AlreadyLoaded`, or the same failure. A load of a model that is being unloaded waits until the model is gone.
        Cancelling the caller does not cancel the load.

        Raises `UnknownHarness`, `AlreadyLoaded`, `ShuttingDown`, `Overloaded` if too many loads are under way or if
        there is no room for ten minutes, `PreflightFailed` if there can be no room, any `LoadFailed` or
        `SourceUnavailable` of the harness, `LoadCancelled` if the model is unloaded meanwhile, and
        `UnloadFailed` if a model of this id does not go.
        """
        while (model := self._models.find_same(spec)) is not None:
            if not model.is_leaving:
                await self._outcome(model)
                raise AlreadyLoaded(model.model_id)
            try:
                with self._absent.queued(model.model_id), self._telling_refusal(spec):
                    await model.departure()
            finally:
                self._models.changes.notify()  # chats that wait for this load look again, also after a failure
        with self._telling_refusal(spec):
            if self._residency.rules.makes_room:
                self._harnesses.find(spec)
                started, is_own = await self._residency.turn(spec, may_displace=may_displace)
            else:
                started, is_own = self._start_load(spec), True
        loaded = None
        while loaded is None:
            try:
                loaded = await self._outcome(started)
            except PreflightFailed:
                if not self._residency.is_waiting(spec):
                    raise
                with self._telling_refusal(spec):
                    started, _ = await self._residency.turn(spec, may_displace=may_displace)
        if not is_own:
            raise AlreadyLoaded(started.model_id)
        return loaded.info()

    async def _outcome(self, model: HostedModel) -> LoadedModel:
        try:
            return await model.outcome()
        except LoadCancelled as error:
            if self._farewell is not None:
                raise ShuttingDown from error  # the client should go to another host
            raise

    def _start_load(self, spec: ModelSpec) -> HostedModel:
        if self._farewell is not None:
            raise ShuttingDown
        model = self._models.load(spec, self._harnesses.find(spec))
        self._reporter.look(model)
        return model

    @contextmanager
    def _telling_refusal(self, spec: ModelSpec) -> Iterator[None]:
        """Within the block an error means that the load does not begin."""
        try:
            yield
        except NeuronError as error:
            self._reporter.refuse_load(error, model_id=spec.model_id)
            raise

    async def _need_of(self, spec: ModelSpec) -> Needs:
        await self._before_load()
        return await self._harnesses.memory_need(spec)

    def _note(self, model: HostedModel) -> None:
        self._absent.note(model)
        self._residency.note(model)
        self._reporter.look(model)

    def _look(self) -> None:
        """Tell what has changed without a call of this object: what harnesses do, and the start-up loading."""
        for model in self._models.values():
            self._reporter.look(model)
        state = HostState(self._absent.activation.snapshot().state)
        self._reporter.look_at_host(state if self._farewell is None else HostState.DRAINING)

    def _note_idle(self) -> None:
        self._residency.look_again()

    def _tell_of_load(self, ended: EndedLoad) -> None:
        if self._on_load is None:
            return
        try:
            self._on_load(ended)
        except Exception:  # a failure of `on_load` is no failure of the load
            logger.exception("bug in the callback `on_load`", extra={"model_id": ended.model_id})

    async def _tell_of_unload(self, model: HostedModel) -> None:
        if self._on_unloaded is None or self._farewell is not None:
            return
        try:
            with anyio.move_on_after(_ON_UNLOADED_LIMIT_S):
                await self._on_unloaded()
        except Exception:  # a failure of `on_unloaded` is no failure of the unload
            logger.exception("bug in the callback `on_unloaded`", extra={"model_id": model.model_id})

    async def estimate(self, spec: ModelSpec) -> MemoryPlan:
        """How a load of this spec would be done now, and what it would take on each device. Nothing is loaded.

        A model that does not fit is no error: the plan says it. Raises `UnknownHarness`, `ShuttingDown`, `Overloaded`
        if many plans are being made, `LoadFailed` for a model that cannot be loaded at all and for a harness that
        cannot say what a load takes, and `SourceUnavailable`.
        """
        if self._farewell is not None:
            raise ShuttingDown
        plan = await self._harnesses.estimate(spec)
        return plan.within(await self._residency.limits())

    async def unload(self, model_id: str) -> None:
        """Drain a model, unload it, and return when its memory is back. A load of the model that runs or waits is
        cancelled.

        From now on the model takes no requests. New requests, and requests that wait or are being prepared, are refused
        with `ModelNotLoaded` at once. Running requests end with an error if they still run after `drain_timeout_s`, or
        if the model recovers from a crash. A second caller waits for the same end.

        Raises `ModelNotLoaded`, or the error of a harness that cannot unload the model. Raises `UnloadFailed` if the
        harness takes longer than `unload_timeout_s`. The memory of the model may still be taken then.
        """
        model = self._models.find(model_id)
        if model is None:
            if self._residency.give_up(model_id):
                return
            raise ModelNotLoaded(model_id)
        model.refuse(lambda: ModelNotLoaded(model_id))
        model.move(Event.UNLOADED)
        await model.departure()
        if model.unload_failure is not None:
            raise model.unload_failure

    def announce_stop(self) -> None:
        """Begin a shutdown of which gateways learn first: loads are cancelled, models are `recovering`.

        Requests to models that serve are still admitted, until `close_admission`. So no request fails that a gateway
        sends before it has looked at the list again.
        """
        if self._farewell is None:
            self._farewell = Farewell(self.list_models(), self.loaded_unix_s())
        self._residency.close()
        for model in self._models.values():
            model.move(Event.LOADS_CLOSED)
        self._look()
        self._models.changes.notify()

    def close_admission(self) -> None:
        """Begin a shutdown: cancel loads, and refuse new loads, new and waiting requests. Running replies go on."""
        self._admits_requests = False
        self.announce_stop()
        for model in self._models.values():
            model.refuse(ShuttingDown)

    async def wait_idle(self) -> None:
        """Wait until no request runs or waits. Call `close_admission` before. Otherwise this may wait for ever."""
        await self._models.wait_idle()

    def tick_age_s(self) -> float:
        """Seconds since the supervision of the models last ran. Far more than one means that it hangs."""
        return self._models.tick_age_s()

    # --------------------------------------------------------------------------------------------------- chatting

    def chat(self, request: Chat) -> Reply:
        """The reply to a chat: `run` for the most usual task."""
        return self.run(request)

    def run(self, task: Task, *, on_account: Callable[[EndedReply], None] = log_reply) -> Reply:
        """The reply to `task`. Nothing happens, and nothing is refused, until the reply is entered (see `Reply`).

        `on_account` is called once at the end of the block of a reply that was entered, before `on_reply`. It must not
        wait. If none is given, the registry writes a line into the log.

        Entering raises `ModelLoading` after `wait_for_load_s` for a model that is being loaded or will be. It raises
        `ModelNotLoaded` for a model that is not being loaded, and `InvalidRequest` for a `keep_alive_s` on a host that
        does not make room. It raises `PreflightFailed` for a model on demand that needs more memory than it can get.
        """
        keep_alive_s = task.keep_alive_s if isinstance(task, Chat | Complete | Embed) else None
        return LeasedReply(
            task,
            find=partial(self._way_in.find, wait_s=self.wait_for_load_s, keep_alive_s=keep_alive_s),
            is_stopping=lambda: not self._admits_requests,
            on_end=self._end_reply,
            on_refusal=self._reporter.refuse_request,
            on_account=on_account,
            clock=self._clock,
        )

    def _end_reply(self, ended: EndedReply) -> None:
        self._reporter.end_reply(ended)
        if self._on_reply is not None:
            self._on_reply(ended)

    # ---------------------------------------------------------------------------------------------------- looking

    def list_models(self) -> tuple[ModelInfo, ...]:
        """The models that serve.

        After `announce_stop` these are the models that served at that time, as `recovering`, until the registry is
        left. A gateway then sends no more requests to them, and does not load them on another host.
        """
        if self._farewell is not None:
            return self._farewell.models
        return tuple(model.loaded.info() for model in self._models.serving())

    def on_demand(self) -> tuple[str, ...]:
        """The public ids of the models that are not listed, and that a request would load, in the order of the rules.

        Empty after `announce_stop`.
        """
        return self._residency.absent_on_demand()

    def info(self, model_id: str) -> ModelInfo:
        """What `list_models` has of one model, under any spelling of its id.

        Raises what a request to a model that is not listed would raise without a wait: `ModelLoading` if it is being
        loaded or will be, `PreflightFailed` if it needs more memory than it can get, and `ModelNotLoaded` otherwise.
        """
        if self._farewell is not None:
            id_ = public_id(model_id)
            for info in self._farewell.models:
                if info.id == id_:
                    return info
        found = self._way_in.look(model_id)
        if not isinstance(found, HostedModel):
            raise found
        return found.loaded.info()

    def loaded_unix_s(self) -> Mapping[str, int]:
        """When each model began to serve, by id, in seconds of Unix time. Includes models that are leaving."""
        if self._farewell is not None:
            return self._farewell.loaded_unix_s
        return {m.model_id: m.loaded_unix_s for m in self._models.values() if m.loaded_unix_s is not None}

    def loads(self) -> tuple[ModelLoad, ...]:
        """How busy each serving model is."""
        return tuple(model.rates.show(model.loaded.load()) for model in self._models.serving())

    def measures(self) -> Mapping[str, EngineMeasures]:
        """What the engines of the serving models have counted, by id. Some backends count nothing."""
        told = ((m.model_id, m.loaded) for m in self._models.serving())
        found = {id_: model.measures() for id_, model in told if isinstance(model, MeasuredModel)}
        return {id_: measures for id_, measures in found.items() if measures is not None}

    def loading(self) -> tuple[LoadingModel, ...]:
        """The loads that run now. A load that was cancelled is in `unloading` until its memory is back."""
        return tuple(model.as_loading() for model in self._models.values() if model.is_loading)

    def residency_counts(self) -> ResidencyCounts:
        """What the registry has done by itself about its models, and how many loads wait for room."""
        return self._residency.counts()

    def fetched_bytes(self) -> int:
        """The bytes that the loads that have not ended have brought into the cache so far; `EndedLoad` has the rest."""
        return sum(model.fetched_bytes for model in self._models.values() if not model.has_loaded)

    def unloading(self) -> tuple[UnloadingModel, ...]:
        """The models that are being unloaded and whose memory is not back yet."""
        return tuple(model.as_unloading() for model in self._models.values() if model.is_leaving)

    async def loading_changes(self) -> AsyncGenerator[tuple[LoadingModel, ...], None]:
        """The result of `loading` now and after each change. Changes between two looks of the caller are merged.

        Ends after `announce_stop`. The last value is empty.
        """
        said = None
        async for _ in self._models.changes:
            is_last, loading = self._farewell is not None, self.loading()
            progress = [(load.model_id, load.progress) for load in loading]
            if progress != said:
                said = progress
                yield loading
            if is_last:
                return

    def events(self, after: str | None = None) -> HostEvents:
        """What happens on this host, as it happens: `async for event in registry.events(): …`.

        Without `after` the events from now on. With the `id` of an event those that came after it, and with `"start"`
        all that are kept. Of each kind the last 256 are kept, and of progress the last of each stage of a load. Events
        that are not kept any more, and an `after` that this registry never gave, are told with a `GapEvent`.

        Ends when the registry has been left, after its last event. The reader belongs to one task, and needs no
        closing. A reader that is slow delays nobody.
        """
        return self._events.read(after)

    def recent_events(self) -> tuple[HostEvent, ...]:
        """The events that are kept, oldest first: see `events`."""
        return self._events.kept()

    def lost(self) -> tuple[FailedLoad, ...]:
        """The models that were given up and were not loaded again, with the reason."""
        return self._absent.lost()

    def endpoint(self, model_id: str) -> str:
        """The base URL at which this model answers, or will answer after its load, also if a request must ask for it.

        Raises `ModelNotLoaded`.
        """
        found = self._way_in.look(model_id)
        if isinstance(found, HostedModel | ModelLoading):
            return self.endpoint_url
        if self._residency.can_load(model_id) or self._leaves_with_the_host(model_id):
            return self.endpoint_url
        raise found

    def _leaves_with_the_host(self, model_id: str) -> bool:
        """Whether the model leaves because the host stops. After a 404 for it a gateway would not try another host."""
        id_ = public_id(model_id)
        return self._farewell is not None and (
            id_ in self._models or any(info.id == id_ for info in self._farewell.models)
        )

    async def capabilities(self, model_id: str) -> tuple[str, ...] | None:
        """What the model can do, by local files if it does not serve. None if this host cannot say it."""
        model = self._models.find(model_id)
        if model is not None and model.serves:
            return model.loaded.info().capabilities
        return await self._harnesses.known_capabilities(model_id)
