"""Harnesses by name and models by id. Owns every load, lease and unload; knows backends only through `harness`.

Each model lives in one task of the registry (`hosting`): the task enters `Harness.open`, waits until the model is to
go, drains it and leaves. So a caller that goes away stops waiting and nothing else, and whatever a model holds is
released by one `async with`.
"""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Final, Self

import anyio
from anyio.abc import TaskGroup
from msgspec.structs import replace

from neuron_lib.absence import Absences
from neuron_lib.activation import ActivationTracker
from neuron_lib.errors import (
    AlreadyLoaded,
    LoadCancelled,
    ModelLoading,
    ModelNotLoaded,
    Overloaded,
    OverloadReason,
    ShuttingDown,
    UnknownHarness,
    cause_chain,
)
from neuron_lib.harness import Harness, LoadedModel, Reply
from neuron_lib.hosting import ModelTask, supervise
from neuron_lib.leasing import LeasedGeneration
from neuron_lib.logs import get_logger
from neuron_lib.progress import advance, describe
from neuron_lib.residence import Residence
from neuron_lib.residences import Residences
from neuron_lib.shown import clip
from neuron_lib.sizes import MB
from neuron_lib.types import (
    Chat,
    FailedLoad,
    LoadingModel,
    LoadProgress,
    ModelInfo,
    ModelLoad,
    ModelSpec,
    ModelStatus,
    Task,
    UnloadingModel,
    public_id,
)

__all__ = ("Registry",)

logger = get_logger(__name__)

_TICK_S: Final = 1.0
_TOO_MANY_LOADS_RETRY_S: Final = 30
_ON_UNLOADED_LIMIT_S: Final = 5.0
"""Whoever waits for an unload waits no longer than this for those who are told of it first."""


class Registry:
    """The models of one host. Use it as `async with Registry([harness]) as registry`.

    Everything that only reads (`list_models`, `loads`, `loading`, `unloading`, `lost`, `endpoint`) is memory only and
    never waits. Leaving the block refuses what is queued, ends what runs, cancels loads and unloads every model.
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
        on_unloaded: Callable[[], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`endpoint_url` is what `endpoint` answers; an unload waits up to `drain_timeout_s` for running requests, and
        then up to `unload_timeout_s` for the harness to let the model go. At most `max_loads` loads are under way at
        once, those that wait for something included. A chat with a model that is being loaded, or will be, waits up to
        `wait_for_load_s` for it before it is refused with `ModelLoading`.

        `on_unloaded` is awaited, for some seconds at most, when a model's memory is back and before the unload
        returns: the place to read the devices anew. `clock` gives the seconds by which the time of loads and unloads
        is told.
        """
        self.endpoint_url = endpoint_url
        self.drain_timeout_s = drain_timeout_s
        self.unload_timeout_s = unload_timeout_s
        self.max_loads = max_loads
        self.wait_for_load_s = wait_for_load_s
        self._on_unloaded = on_unloaded
        self._harnesses: dict[str, Harness] = {}
        self._residences = Residences()
        self._absences = Absences()
        self._loaded_unix_s: dict[str, int] = {}
        self._tasks: TaskGroup | None = None
        self._farewell: tuple[ModelInfo, ...] | None = None
        self._clock = clock
        self._ticked_s = clock()
        self._over = anyio.Event()
        self._loading_changed = anyio.Event()
        for harness in harnesses:
            self.register(harness)

    def __repr__(self) -> str:
        states = (
            f"{r.model_id} {'serving' if r.is_serving else 'leaving' if r.leave.is_set() else 'loading'}"
            for r in self._residences.values()
        )
        return f"<Registry [{', '.join(states)}]>"

    async def __aenter__(self) -> Self:
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self._tick, name="registry tick")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._tasks is not None  # entered
        self.close_admission()
        for residence in self._residences.values():
            residence.dismiss(now_s=self._clock())
        tasks, self._tasks = self._tasks, None
        tasks.start_soon(self._stop_ticking)
        # Not told of `exc`: it would wrap it in a group, and cancel the models before they are unloaded.
        await tasks.__aexit__(None, None, None)
        self._farewell = ()

    def register(self, harness: Harness, *, aliases: Iterable[str] = ()) -> None:
        """Make a harness available under its name and `aliases`; the latest registration of a name counts."""
        for name in (harness.name, *aliases):
            self._harnesses[name] = harness

    def follow(self, activation: ActivationTracker) -> None:
        """Take the models that `activation` awaits for models that will be loaded, and complete each of them there as
        soon as it is resident, whoever loads it. `load_default_models` calls this.
        """
        self._absences.activation = activation
        for residence in self._residences.values():
            if residence.is_serving:
                self._absences.end(residence.model_id)

    @property
    def _is_closed(self) -> bool:
        return self._farewell is not None

    @property
    def harness_names(self) -> tuple[str, ...]:
        """The registered harnesses' own names."""
        return tuple(dict.fromkeys(harness.name for harness in self._harnesses.values()))

    async def load(self, spec: ModelSpec) -> ModelInfo:
        """Load a model and wait until it serves.

        Loads of one id are single-flight: whoever comes second waits for the first and is then told `AlreadyLoaded`,
        or the same failure. A load of a model that is on its way out waits until it is gone. Raises `UnknownHarness`,
        `AlreadyLoaded`, `ShuttingDown`, `Overloaded` if too many loads are under way, whatever `LoadFailed` or
        `SourceUnavailable` the harness raises, `LoadCancelled` if the model is unloaded meanwhile, and `UnloadFailed`
        if one of this id does not go.
        Cancelling the caller does not cancel the load.
        """
        model_id = public_id(spec.model_id)
        while (residence := self._residences.find_same(spec, model_id)) is not None:
            if residence.leave.is_set():
                await self._queue_behind(residence)
                continue
            await self._outcome(residence)
            raise AlreadyLoaded(residence.model_id)
        model = await self._outcome(self._take_in(spec, model_id))
        return model.info()

    async def _queue_behind(self, residence: Residence) -> None:
        """A load waits for its model to go; others hear meanwhile that it will be loaded."""
        try:
            with self._absences.queued(residence.model_id):
                await residence.departure()
        except BaseException:
            self._wake_followers()  # there will be no load
            raise

    async def _outcome(self, residence: Residence) -> LoadedModel:
        try:
            return await residence.outcome()
        except LoadCancelled as error:
            if self._is_closed:
                raise ShuttingDown from error  # which says where to go instead
            raise

    async def unload(self, model_id: str) -> None:
        """Drain a model, unload it, and return when its memory is back; a load that is running is cancelled.

        From now on it takes no requests: new ones, and those that wait or are being prepared, get `ModelNotLoaded` at
        once. Those that still run after `drain_timeout_s`, or whose model recovers from a crash, are ended with an
        error. Whoever unloads a model that is on its way out waits for the same end.

        Raises `ModelNotLoaded`, what went wrong if the harness could not unload it, or `UnloadFailed` if it has not
        done so after `unload_timeout_s`; its memory may still be taken then.
        """
        residence = self._residences.find(model_id)
        if residence is None:
            raise ModelNotLoaded(model_id)
        was_loading = residence.is_loading
        residence.refuse(lambda: ModelNotLoaded(model_id))
        residence.dismiss(now_s=self._clock(), draining=True)
        if was_loading:
            self._wake_followers()
        await residence.departure()
        if residence.unload_failure is not None:
            raise residence.unload_failure

    def chat(self, request: Chat) -> Reply:
        """The reply to a chat, as of `run`."""
        return self.run(request)

    def run(self, task: Task) -> Reply:
        """The reply to `task`; nothing happens, and nothing is refused, until it is entered (see `Reply`).

        Entering raises `ModelLoading` for a model that is being loaded or will be, after `wait_for_load_s`, and
        `ModelNotLoaded` for one that nobody loads.
        """
        return LeasedGeneration(task, find=self._await_serving, is_stopping=lambda: self._is_closed)

    def list_models(self) -> tuple[ModelInfo, ...]:
        """The models that serve.

        Once nothing more is admitted: those that served then, as `recovering`, until the registry is left. A gateway
        takes them out of its rotation, and knows that they are not for others to load.
        """
        if self._farewell is not None:
            return self._farewell
        return tuple(model.info() for model in self._residences.serving())

    def loaded_unix_s(self) -> Mapping[str, int]:
        """When each of them became resident, by id, in seconds of Unix time."""
        return MappingProxyType(self._loaded_unix_s)

    def loads(self) -> tuple[ModelLoad, ...]:
        """How busy each model is that serves."""
        return tuple(model.load() for model in self._residences.serving())

    def loading(self) -> tuple[LoadingModel, ...]:
        """The loads that run now; one that was cancelled is `unloading`, as what it held may be on its way back."""
        return tuple(
            LoadingModel(model_id=r.model_id, progress=r.progress, elapsed_ms=self._elapsed_ms(r))
            for r in self._residences.values()
            if r.is_loading
        )

    def unloading(self) -> tuple[UnloadingModel, ...]:
        """The models that are on their way out and whose memory is not back yet."""
        return tuple(
            UnloadingModel(
                model_id=r.model_id,
                elapsed_ms=round(self._since_s(r.leaving_s) * 1000),
                running_requests=r.leases,
                is_overdue=r.overdue is not None,
            )
            for r in self._residences.values()
            if r.leave.is_set()
        )

    async def loading_changes(self) -> AsyncGenerator[tuple[LoadingModel, ...], None]:
        """What `loading` says now and after every change of it; changes nobody awaited in between are merged.

        Ends when no more models are admitted, with nothing loading as its last word.
        """
        while True:
            changed, is_last = self._loading_changed, self._is_closed
            yield self.loading()
            if is_last:
                return
            await changed.wait()

    def lost(self) -> tuple[FailedLoad, ...]:
        """The models that died by themselves and were not loaded again, with the reason."""
        return self._absences.lost()

    def endpoint(self, model_id: str) -> str:
        """The base URL at which this model answers, or will when its load has ended. Raises `ModelNotLoaded`."""
        if self._residences.find_serving(model_id) is None and not self._is_leaving_with_the_host(model_id):
            absence = self._why_absent(model_id)
            if not isinstance(absence, ModelLoading):
                raise absence
        return self.endpoint_url

    def _is_leaving_with_the_host(self, model_id: str) -> bool:
        """A gateway that got a 404 for such a model would not try another host."""
        id_ = public_id(model_id)
        return self._farewell is not None and (id_ in self._residences or any(i.id == id_ for i in self._farewell))

    async def capabilities(self, model_id: str) -> tuple[str, ...] | None:
        """What the model can do; of one that is not resident, what local files say. None: this host cannot say."""
        residence = self._residences.find(model_id)
        if residence is not None and residence.model is not None and residence.is_serving:
            return residence.model.info().capabilities
        for harness in dict.fromkeys(self._harnesses.values()):
            known = await harness.known_capabilities(model_id)
            if known is not None:
                return known
        return None

    def close_admission(self) -> None:
        """First step of a shutdown: cancel loads, refuse queued and new requests and loads; what runs goes on."""
        if self._farewell is None:
            # Not servable would mean that another host should load them.
            self._farewell = tuple(
                replace(info, status=ModelStatus.RECOVERING, servable=None) for info in self.list_models()
            )
        for residence in self._residences.values():
            residence.refuse(ShuttingDown)
            if residence.model is None:
                residence.dismiss(now_s=self._clock())
        self._wake_followers()

    def tick_age_s(self) -> float:
        """Seconds since the supervision of the models last moved; far more than one means that it hangs."""
        return self._clock() - self._ticked_s

    async def _tick(self) -> None:
        while not self._over.is_set():
            self._ticked_s = self._clock()
            for residence in tuple(self._residences.values()):
                try:
                    supervise(residence, now_s=self._ticked_s, unload_timeout_s=self.unload_timeout_s)
                except Exception:  # a harness with a bug must not take the other models with it
                    logger.exception("supervision of a model failed", extra={"model_id": residence.model_id})
            with anyio.move_on_after(_TICK_S):
                await self._over.wait()

    async def _stop_ticking(self) -> None:
        """The tick goes on until the last model is gone."""
        while self._residences:
            await next(iter(self._residences.values())).gone.wait()
        self._over.set()

    async def wait_idle(self) -> None:
        """Wait until no request runs or waits. Without `close_admission` before it, that may never be."""
        while busy := [residence for residence in self._residences.values() if residence.leases]:
            await busy[0].drained()

    async def _await_serving(self, model_id: str) -> tuple[Residence, LoadedModel]:
        """The model, after up to `wait_for_load_s` for the end of its load; raises why it does not serve."""
        if self.wait_for_load_s > 0:
            with anyio.move_on_after(self.wait_for_load_s):
                while self._residences.find_serving(model_id) is None and not self._is_closed:
                    if not isinstance(self._why_absent(model_id), ModelLoading):
                        break
                    await self._absence_changes(model_id)
        if self._is_closed:
            raise ShuttingDown
        found = self._residences.find_serving(model_id)
        if found is None:
            raise self._why_absent(model_id)
        return found

    def _why_absent(self, model_id: str) -> ModelNotLoaded:
        residence = self._residences.find(model_id)
        is_loading = residence is not None and residence.is_loading
        return self._absences.explain(model_id, residence.progress if residence and is_loading else None)

    async def _absence_changes(self, model_id: str) -> None:
        """Wait until there may be something else to say of a model that does not serve yet."""
        residence = self._residences.find(model_id)
        if residence is not None and residence.is_loading:
            await residence.settled.wait()
            return
        async with anyio.create_task_group() as tasks:
            for event in (self._loading_changed, self._absences.activation.changed):
                tasks.start_soon(_end_with, event, tasks.cancel_scope)

    def _take_in(self, spec: ModelSpec, model_id: str) -> Residence:
        if self._is_closed:
            raise ShuttingDown
        if self._tasks is None:
            raise RuntimeError("a Registry must be entered with `async with` before it loads models")
        harness = self._harnesses.get(spec.harness)
        if harness is None:
            known = ", ".join(sorted(self._harnesses)) or "none"
            raise UnknownHarness(f"unknown harness {clip(spec.harness)!r}; registered: {known}", model_id=model_id)
        # Cancelled loads count until their harness has given back what they held.
        if (loads := sum(r.model is None for r in self._residences.values())) >= self.max_loads:
            raise Overloaded(
                f"{loads} loads are under way on this host, and it takes no more at once",
                reason=OverloadReason.TOO_MANY_LOADS,
                retry_after_s=_TOO_MANY_LOADS_RETRY_S,
                model_id=model_id,
            )
        residence = self._residences[model_id] = Residence(spec, model_id, started_s=self._clock())
        self._log_progress(residence)
        self._wake_followers()
        task = ModelTask(
            harness=harness,
            residence=residence,
            drain_timeout_s=self.drain_timeout_s,
            clock=self._clock,
            report=partial(self._report, residence),
            on_resident=partial(self._note_resident, residence),
            on_lost=partial(self._note_loss, residence),
        )
        self._tasks.start_soon(self._live, task, name=f"model {model_id}")
        return residence

    async def _live(self, task: ModelTask) -> None:
        """The task a model lives in, and what others are told at its end."""
        residence = task.residence
        try:
            await task.run()
            if residence.leave.is_set() and not self._is_closed:
                await self._tell_of_unload(residence)
        finally:
            self._see_off(residence)

    def _note_resident(self, residence: Residence) -> None:
        self._loaded_unix_s[residence.model_id] = int(time.time())
        self._absences.end(residence.model_id)
        self._wake_followers()

    def _note_loss(self, residence: Residence, reason: str) -> None:
        self._absences.note_loss(residence.model_id, reason)

    async def _tell_of_unload(self, residence: Residence) -> None:
        if self._on_unloaded is None:
            return
        try:
            with anyio.move_on_after(_ON_UNLOADED_LIMIT_S):
                await self._on_unloaded()
        except Exception:  # what others do with the news is no failure of the unload
            logger.exception("whoever is told of unloads failed", extra={"model_id": residence.model_id})

    def _see_off(self, residence: Residence) -> None:
        was_loading = residence.is_loading
        residence.leave.set()
        residence.settled.set()
        del self._residences[residence.model_id]
        residence.gone.set()
        residence.has_answer.set()
        if not self._is_closed:
            self._loaded_unix_s.pop(residence.model_id, None)
        if was_loading:
            self._wake_followers()
        labels = {"model_id": residence.model_id, "elapsed_ms": self._elapsed_ms(residence)}
        if residence.model is None and residence.failure is not None and not residence.left_unasked:
            self._absences.note_failure(residence.model_id, cause_chain(residence.failure))
        if residence.model is None and residence.failure is None:
            logger.info("load cancelled: %s", describe(residence.progress), extra=labels)
        if residence.overdue is not None:
            logger.warning("overdue unload has ended", extra=labels)

    def _report(self, residence: Residence, reported: LoadProgress) -> None:
        """Take a harness's word for how far a load has come, as far as it is news."""
        progress = advance(residence.progress, reported)
        if residence.is_loading and progress != residence.progress:
            residence.progress = progress
            self._log_progress(residence)
            self._wake_followers()

    def _log_progress(self, residence: Residence) -> None:
        progress = residence.progress
        line = residence.progress_log.line(progress, now_s=self._clock())
        if line is not None:
            fields: dict[str, str | int] = {"model_id": residence.model_id}
            if progress.file is not None:
                fields["file"] = progress.file
            if progress.total_bytes is not None:
                fields["total_mb"] = progress.total_bytes // MB
            logger.info("%s", line, extra=fields)

    def _elapsed_ms(self, residence: Residence) -> int:
        return round(self._since_s(residence.started_s) * 1000)

    def _since_s(self, moment_s: float | None) -> float:
        """The seconds since a moment of the clock; 0 while it has not come."""
        return 0.0 if moment_s is None else self._clock() - moment_s

    def _wake_followers(self) -> None:
        self._loading_changed.set()
        self._loading_changed = anyio.Event()


async def _end_with(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
