"""Harnesses by name and models by id. Owns every load, lease and unload; knows backends only through `harness`.

Each model lives in one task of the registry: the task enters `Harness.open`, waits until the model is to go, drains
it and leaves. So a caller that goes away stops waiting and nothing else, and whatever a model holds is released by
one `async with`.
"""

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Final, Self

import anyio
from anyio.abc import TaskGroup

from neuron_lib.errors import (
    AlreadyLoaded,
    LoadFailed,
    ModelNotLoaded,
    NeuronError,
    Overloaded,
    OverloadReason,
    ShuttingDown,
    UnknownHarness,
    UnloadFailed,
    cause_chain,
)
from neuron_lib.harness import Generation, Harness, LoadedModel
from neuron_lib.progress import advance, describe
from neuron_lib.residence import Residence
from neuron_lib.types import (
    ChatRequest,
    FailedLoad,
    GenerationEvent,
    LoadingModel,
    LoadProgress,
    ModelInfo,
    ModelLoad,
    ModelSpec,
    ModelStatus,
    UnloadingModel,
    public_id,
)

__all__ = ("Registry",)

logger = logging.getLogger(__name__)

_TICK_S: Final = 1.0
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
        on_unloaded: Callable[[], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`endpoint_url` is what `endpoint` answers; an unload waits up to `drain_timeout_s` for running requests, and
        then up to `unload_timeout_s` for the harness to let the model go.

        `on_unloaded` is awaited, for some seconds at most, when a model's memory is back and before the unload
        returns: the place to read the devices anew. `clock` gives the seconds by which the time of loads and unloads
        is told.
        """
        self.endpoint_url = endpoint_url
        self.drain_timeout_s = drain_timeout_s
        self.unload_timeout_s = unload_timeout_s
        self._on_unloaded = on_unloaded
        self._harnesses: dict[str, Harness] = {}
        self._residences: dict[str, Residence] = {}
        self._lost: dict[str, FailedLoad] = {}
        self._tasks: TaskGroup | None = None
        self._is_closed = False
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
        self._is_closed = True
        for residence in self._residences.values():
            residence.refuse(ShuttingDown)
            residence.dismiss(now_s=self._clock())
        self._wake_followers()
        tasks, self._tasks = self._tasks, None
        tasks.start_soon(self._stop_ticking)
        # Not told of `exc`: it would wrap it in a group, and cancel the models before they are unloaded.
        await tasks.__aexit__(None, None, None)

    def register(self, harness: Harness, *, aliases: Iterable[str] = ()) -> None:
        """Make a harness available under its name and `aliases`; the latest registration of a name counts."""
        for name in (harness.name, *aliases):
            self._harnesses[name] = harness

    @property
    def harness_names(self) -> tuple[str, ...]:
        """The registered harnesses' own names."""
        return tuple(dict.fromkeys(harness.name for harness in self._harnesses.values()))

    async def load(self, spec: ModelSpec) -> ModelInfo:
        """Load a model and wait until it serves.

        Loads of one id are single-flight: whoever comes second waits for the first and is then told `AlreadyLoaded`,
        or the same failure. A load of a model that is on its way out waits until it is gone. Raises `UnknownHarness`,
        `AlreadyLoaded`, `ShuttingDown`, whatever `LoadFailed` or `SourceUnavailable` the harness raises,
        `LoadCancelled` if the model is unloaded meanwhile, and `UnloadFailed` if one of this id does not go.
        Cancelling the caller does not cancel the load.
        """
        model_id = public_id(spec.model_id)
        while (residence := self._residences.get(model_id)) is not None:
            if residence.leave.is_set():
                await residence.departure()
                continue
            await residence.outcome()
            raise AlreadyLoaded(model_id)
        model = await self._take_in(spec, model_id).outcome()
        return model.info()

    async def unload(self, model_id: str) -> None:
        """Drain a model, unload it, and return when its memory is back; a load that is running is cancelled.

        From now on it takes no requests: new ones, and those that wait or are being prepared, get `ModelNotLoaded` at
        once. Those that still run after `drain_timeout_s`, or whose model recovers from a crash, are ended with an
        error. Whoever unloads a model that is on its way out waits for the same end.

        Raises `ModelNotLoaded`, what went wrong if the harness could not unload it, or `UnloadFailed` if it has not
        done so after `unload_timeout_s`; its memory may still be taken then.
        """
        residence = self._residences.get(public_id(model_id))
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

    def chat(self, request: ChatRequest) -> Generation:
        """A reply to `request`; nothing happens, and nothing is refused, until it is entered (see `Generation`)."""
        return _LeasedGeneration(self, request)

    def list_models(self) -> tuple[ModelInfo, ...]:
        """The models that serve."""
        return tuple(model.info() for model in self._serving())

    def loads(self) -> tuple[ModelLoad, ...]:
        """How busy each of them is."""
        return tuple(model.load() for model in self._serving())

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
        return tuple(self._lost.values())

    def endpoint(self, model_id: str) -> str:
        """The base URL at which this model answers. Raises `ModelNotLoaded`."""
        self._find(model_id)
        return self.endpoint_url

    async def capabilities(self, model_id: str) -> tuple[str, ...] | None:
        """What the model can do; of one that is not resident, what local files say. None: this host cannot say."""
        residence = self._residences.get(public_id(model_id))
        if residence is not None and residence.model is not None and residence.is_serving:
            return residence.model.info().capabilities
        for harness in dict.fromkeys(self._harnesses.values()):
            known = await harness.known_capabilities(model_id)
            if known is not None:
                return known
        return None

    def close_admission(self) -> None:
        """First step of a shutdown: cancel loads, refuse queued and new requests and loads; what runs goes on."""
        self._is_closed = True
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
                    self._supervise(residence)
                except Exception:  # a harness with a bug must not take the other models with it
                    logger.exception("supervision of a model failed", extra={"model_id": residence.model_id})
            with anyio.move_on_after(_TICK_S):
                await self._over.wait()

    def _supervise(self, residence: Residence) -> None:
        """Cut short what leads nowhere: a drain of requests that cannot run, a close that does not end."""
        if residence.is_draining and residence.model is not None and _is_recovering(residence.model):
            residence.drain.cancel()
        closing_s = self._since_s(residence.closing_s)
        if residence.closing_s is not None and residence.overdue is None and closing_s > self.unload_timeout_s:
            self._give_up(
                residence, closing_s=round(closing_s, 1), leaving_s=round(self._since_s(residence.leaving_s), 1)
            )

    def _give_up(self, residence: Residence, *, closing_s: float, leaving_s: float) -> None:
        """Keep nobody waiting for a harness that does not let a model go, and cancel what it does instead."""
        model_id = residence.model_id
        residence.overdue = UnloadFailed(
            f"model {model_id!r} is not gone after {leaving_s:g} s, {closing_s:g} s of them after its last request "
            f"(limit {self.unload_timeout_s:g} s); its memory may still be taken",
            model_id=model_id,
            leaving_s=leaving_s,
            closing_s=closing_s,
        )
        logger.error("unload is overdue: %s", residence.overdue.message, extra=residence.overdue.fields)
        residence.has_answer.set()
        residence.scope.cancel()

    async def _stop_ticking(self) -> None:
        """The tick goes on until the last model is gone."""
        while self._residences:
            await next(iter(self._residences.values())).gone.wait()
        self._over.set()

    async def wait_idle(self) -> None:
        """Wait until no request runs or waits. Without `close_admission` before it, that may never be."""
        while busy := [residence for residence in self._residences.values() if residence.leases]:
            await busy[0].drained()

    def _serving(self) -> list[LoadedModel]:
        return [r.model for r in self._residences.values() if r.model is not None and r.is_serving]

    def _find(self, model_id: str) -> tuple[Residence, LoadedModel]:
        residence = self._residences.get(public_id(model_id))
        if residence is None or residence.model is None or not residence.is_serving:
            raise ModelNotLoaded(model_id)
        return residence, residence.model

    def _take_in(self, spec: ModelSpec, model_id: str) -> Residence:
        if self._is_closed:
            raise ShuttingDown
        if self._tasks is None:
            raise RuntimeError("a Registry must be entered with `async with` before it loads models")
        harness = self._harnesses.get(spec.harness)
        if harness is None:
            known = ", ".join(sorted(self._harnesses)) or "none"
            raise UnknownHarness(f"unknown harness {spec.harness!r}; registered: {known}", model_id=model_id)
        residence = self._residences[model_id] = Residence(spec, model_id, started_s=self._clock())
        self._log_progress(residence)
        self._wake_followers()
        self._tasks.start_soon(self._host, harness, residence, name=f"model {model_id}")
        return residence

    async def _host(self, harness: Harness, residence: Residence) -> None:
        """The task a model lives in."""
        try:
            try:
                with residence.scope:
                    await self._keep(harness, residence)
            except Exception as error:  # noqa: BLE001 - a harness with a bug must not take the other models with it
                self._fail(residence, harness, error)
            residence.closing_s = None
            if residence.leave.is_set() and not self._is_closed:
                await self._tell_of_unload(residence)
        finally:
            self._see_off(residence)

    async def _keep(self, harness: Harness, residence: Residence) -> None:
        """Load it, let it serve until it is to leave, and let it go."""
        report = partial(self._report, residence)
        async with harness.open(residence.spec, model_id=residence.model_id, report=report) as model:
            if residence.leave.is_set():
                return  # cancelled in the very moment in which the load ended
            residence.model = model
            self._lost.pop(residence.model_id, None)
            residence.settled.set()
            self._wake_followers()
            try:
                await self._serve(residence, model)
            finally:
                if not residence.leave.is_set():
                    residence.left_unasked = True
                    self._dismiss_lost(residence, model)
                residence.closing_s = self._clock()

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
        if was_loading:
            self._wake_followers()
        labels = {"model_id": residence.model_id, "elapsed_ms": self._elapsed_ms(residence)}
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
                fields["total_mb"] = progress.total_bytes >> 20
            logger.info("%s", line, extra=fields)

    def _elapsed_ms(self, residence: Residence) -> int:
        return round(self._since_s(residence.started_s) * 1000)

    def _since_s(self, moment_s: float | None) -> float:
        """The seconds since a moment of the clock; 0 while it has not come."""
        return 0.0 if moment_s is None else self._clock() - moment_s

    def _wake_followers(self) -> None:
        self._loading_changed.set()
        self._loading_changed = anyio.Event()

    async def _serve(self, residence: Residence, model: LoadedModel) -> None:
        """Wait for the order to leave, or for the model's own death; then drain, as long as that can lead to an end."""

        async def watch() -> None:
            reason = await model.wait_lost()
            was_asked_to_leave = residence.leave.is_set()
            logger.error("model lost", extra={"model_id": residence.model_id, "reason": reason})
            if not was_asked_to_leave:
                self._lost[residence.model_id] = FailedLoad(model_id=residence.model_id, error=reason)
            self._dismiss_lost(residence, model)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await residence.leave.wait()
            if _is_recovering(model):
                residence.drain.cancel()
            residence.drain.deadline = anyio.current_time() + self.drain_timeout_s
            with residence.drain:
                await residence.drained()
            tasks.cancel_scope.cancel()
        if residence.leases:
            logger.warning(
                "unloading under running requests",
                extra={"model_id": residence.model_id, "running_requests": residence.leases},
            )

    def _dismiss_lost(self, residence: Residence, model: LoadedModel) -> None:
        """What runs and what is being prepared hears of the loss from the harness, which knows more."""
        model.close_admission(lambda: _engine_lost(residence.model_id))
        residence.dismiss(now_s=self._clock())

    def _fail(self, residence: Residence, harness: Harness, error: Exception) -> None:
        """Record how a harness failed to load a model, to keep it, or to let it go."""
        model_id, was_resident = residence.model_id, residence.model is not None
        if isinstance(error, NeuronError):
            failure = error
        else:
            kind = UnloadFailed if residence.leave.is_set() and not residence.left_unasked else LoadFailed
            failure = kind(f"harness {harness.name!r} failed with a bug", model_id=model_id)
            failure.__cause__ = error
        residence.failure = failure
        if residence.left_unasked:
            self._lost[model_id] = FailedLoad(model_id=model_id, error=cause_chain(failure))
        # Whoever asks for a load logs its failure, but sees no traceback.
        if was_resident or failure is not error or residence.unload_failure is not None:
            text = "a resident model failed" if was_resident else "a load failed with a bug"
            logger.error(text, exc_info=failure, extra={"model_id": model_id})


def _is_recovering(model: LoadedModel) -> bool:
    """Nothing can run while it does, so nothing comes to its end."""
    return model.info().status is ModelStatus.RECOVERING


def _engine_lost(model_id: str) -> Overloaded:
    return Overloaded(
        f"the engine of model {model_id!r} was lost while the request waited",
        reason=OverloadReason.ENGINE_LOST,
        retry_after_s=2,
        model_id=model_id,
    )


class _LeasedGeneration:
    """A model's generation together with the lease that keeps the model from being unloaded under it."""

    def __init__(self, registry: Registry, request: ChatRequest) -> None:
        self._registry = registry
        self._request = request
        self._residence: Residence | None = None
        self._inner: Generation | None = None

    async def __aenter__(self) -> Self:
        if self._registry._is_closed:
            raise ShuttingDown
        residence, model = self._registry._find(self._request.model_id)
        residence.lease()
        try:
            self._inner = await residence.enter(model.chat(self._request))
        except BaseException:
            residence.release()
            raise
        self._residence = residence
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._inner is not None  # entered
        assert self._residence is not None
        try:
            await self._inner.__aexit__(exc_type, exc, tb)
        finally:
            self._residence.release()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> GenerationEvent:
        if self._inner is None:
            raise RuntimeError("a Generation must be entered with `async with` before it is read")
        return await self._inner.__anext__()
