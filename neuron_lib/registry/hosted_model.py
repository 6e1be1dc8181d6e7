"""One model of a host, from the start of its load until its memory is back: its record and its task.

`phases` decides which phase follows an event. This module reports the events to `phases` and acts on the new phase. It
knows no other model.
"""

import time
from collections.abc import Callable

import anyio

from neuron_lib.changes import Changes
from neuron_lib.errors import (
    LoadCancelled,
    LoadFailed,
    NeuronError,
    Overloaded,
    OverloadReason,
    RequestRejected,
    SourceUnavailable,
    UnloadFailed,
    cause_chain,
)
from neuron_lib.harness import Harness, LoadedModel
from neuron_lib.logs import FieldLogger, get_logger
from neuron_lib.registry.leases import Leases
from neuron_lib.registry.load_log import LoadLog
from neuron_lib.registry.phases import Event, after
from neuron_lib.registry.reply_readers import Rates
from neuron_lib.shown import clip
from neuron_lib.types import (
    EndedLoad,
    LoadingModel,
    LoadOutcome,
    LoadProgress,
    ModelPhase,
    ModelSpec,
    ModelStatus,
    UnloadingModel,
)

__all__ = ("HostedModel",)

logger: FieldLogger = get_logger(__name__)


class HostedModel:
    """The only record of one model in one harness. Made when its load starts, and not used again once it is gone.

    One task runs `run` and then `forget`. Everything else may be called from any task of the same event loop.
    `changes` tells of each change of the phase, and of the end of the last lease.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        model_id: str,
        harness: Harness,
        drain_timeout_s: float,
        clock: Callable[[], float],
        on_change: Callable[["HostedModel"], None],
        on_load: Callable[[EndedLoad], None],
        on_idle: Callable[[], None],
    ) -> None:
        """`model_id` is the public id. A drain takes at most `drain_timeout_s`.

        `on_change` is called after each change of the phase and each step of the load, `on_load` once, at the end of
        the load, and `on_idle` at the end of the last lease. None of them may wait or raise. `clock` gives seconds.
        """
        self.spec = spec
        self.model_id = model_id
        self.changes: Changes = Changes()
        self.leases: Leases = Leases(on_idle=self._note_idle)
        self.rates: Rates = Rates()
        self.loaded_unix_s: int | None = None
        """When its load ended, in seconds of Unix time; None before."""
        self.served_s: float | None = None
        """When its load ended, by the clock; None before."""
        self.used_s: float = clock()
        """When its last lease ended, or its load if it had none."""
        self.keep_alive_s: float | None = None
        """How long the last request wants the model to stay when it is idle. None leaves that to the host."""
        self.loss: str | None = None
        """Why the model was given up without an unload. None if it was not."""
        self._harness = harness
        self._drain_timeout_s = drain_timeout_s
        self._clock = clock
        self._on_change = on_change
        self._on_idle = on_idle
        self._on_load = on_load
        self._phase = ModelPhase.LOADING  # never RECOVERING, see `phase`
        self._model: LoadedModel | None = None  # None until its load has succeeded
        self._load_log = LoadLog(model_id, clock=clock)
        self._failure: NeuronError | None = None  # how its harness failed to load, keep or release it
        self._left_by: Event | None = None  # the event that made it leave
        self._leaving_s = 0.0  # since when it has been leaving
        self._closing_s: float | None = None  # when its harness began to release it; None before and after
        self._overdue: UnloadFailed | None = None  # the error for those who wait, if the release takes too long
        self._scope = anyio.CancelScope()  # cancelled to give up a load, and to end a harness that takes too long

    def __repr__(self) -> str:
        return f"<HostedModel {self.model_id} {self.phase}, {self.leases!r}>"

    # -------------------------------------------------------------------------------------------------- its phase

    @property
    def phase(self) -> ModelPhase:
        """The phase now. The harness is asked whether a model that serves is recovering."""
        return ModelPhase.RECOVERING if self.serves and self._is_recovering() else self._phase

    @property
    def is_loading(self) -> bool:
        """Whether its load is running and was not cancelled."""
        return self._phase is ModelPhase.LOADING

    @property
    def serves(self) -> bool:
        """Whether it takes requests, recovering or not. Does not ask its harness."""
        return self._phase.serves

    @property
    def is_leaving(self) -> bool:
        """Whether it is draining, closing or gone."""
        return self._phase.is_leaving

    def move(self, event: Event) -> None:
        """Go to the phase that follows `event`, and start what belongs to that phase."""
        before = self.phase
        phase = after(before, event)
        if phase is before:
            return
        self._phase = phase
        if phase.is_leaving and self._left_by is None:
            self._left_by, self._leaving_s = event, self._clock()
        if phase is ModelPhase.CLOSING:
            self._closing_s = self._clock()
            if self._model is None:
                self._scope.cancel()
        self.changes.notify()
        self._on_change(self)

    def _is_recovering(self) -> bool:
        try:
            return self.loaded.info().status is ModelStatus.RECOVERING
        except Exception:  # a harness with a bug must not keep its model from being unloaded
            logger.exception("a model cannot report its status", extra={"model_id": self.model_id})
            return False

    # --------------------------------------------------------------------------------------------------- its task

    async def run(self) -> None:
        """Load the model, keep it until it must leave, drain it and release it. Returns when its memory is back.

        Errors of the harness are not raised here. They are logged, and raised to those who wait for the load or unload.
        """
        try:
            with self._scope:
                await self._live()
        except Exception as error:  # noqa: BLE001 - a harness with a bug must not take the other models with it
            self._fail(error)
        self._closing_s = None

    async def _live(self) -> None:
        async with self._harness.open(self.spec, model_id=self.model_id, report=self._report) as model:
            if self.is_leaving:
                return  # the load was cancelled at the moment at which it ended
            self._model, self.loaded_unix_s = model, int(time.time())
            self.served_s = self.used_s = self._clock()
            self._on_load(self._load_log.end(LoadOutcome.LOADED))
            self.move(Event.OPENED)
            try:
                await self._serve(model)
            finally:
                self._lose(model)  # changes nothing if the model has drained

    async def _serve(self, model: LoadedModel) -> None:
        """Wait until the model must leave, by an order or because it was given up, and then until it has drained."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch, model)
            await self.changes.until(lambda: self.is_leaving)
            with anyio.move_on_after(self._drain_timeout_s):
                await self.changes.until(lambda: self._phase is not ModelPhase.DRAINING or not self.leases.count)
            self.move(Event.DRAINED)
            tasks.cancel_scope.cancel()
        if self.leases.count:
            fields = {"model_id": self.model_id, "running_requests": self.leases.count}
            logger.warning("unloading a model whose requests still run", extra=fields)

    async def _watch(self, model: LoadedModel) -> None:
        reason = await model.wait_lost()
        logger.error("model lost", extra={"model_id": self.model_id, "reason": reason})
        if not self.is_leaving:
            self.loss = reason
        self._lose(model)

    def _lose(self, model: LoadedModel) -> None:
        """The model was given up. The harness tells the running requests, because it knows more."""
        if self._phase is not ModelPhase.CLOSING:
            model.close_admission(lambda: _engine_lost(self.model_id))
            self.move(Event.LOST)

    def _fail(self, error: Exception) -> None:
        """Record how the harness failed to load, keep or release the model."""
        failed_while_serving = self._left_by is Event.LOST and self.loss is None
        if isinstance(error, NeuronError):
            self._failure = error
        else:
            kind = UnloadFailed if self.is_leaving and not failed_while_serving else LoadFailed
            self._failure = kind(f"harness {self._harness.name!r} failed with a bug", model_id=self.model_id)
            self._failure.__cause__ = error
        if failed_while_serving:
            self.loss = cause_chain(self._failure)
            self._on_change(self)
        # The caller of a load logs the failure, but has no traceback.
        if self._model is not None or self._failure is not error or self.unload_failure is not None:
            text = "a load failed with a bug" if self._model is None else "a resident model failed"
            logger.error(text, exc_info=self._failure, extra={"model_id": self.model_id})

    def forget(self) -> None:
        """The model is gone. Tell those who wait for that. Log a failure if no caller will log it."""
        if self._model is None:
            self._account_for_failed_load()
        if self._overdue is not None:
            labels = {"model_id": self.model_id, "elapsed_ms": self._load_log.elapsed_ms}
            logger.warning("overdue unload has ended", extra=labels)
        self.move(Event.RELEASED)

    def _account_for_failed_load(self) -> None:
        if self._failure is None:
            self._load_log.log_cancelled()
        if self._left_by is not None or self._failure is None:
            ended = self._load_log.end(LoadOutcome.CANCELLED)
        else:
            ended = self._load_log.end(LoadOutcome.FAILED, error=self._failure.code)
        self._on_load(ended)

    # ------------------------------------------------------------------------------------------ what others do to it

    async def outcome(self) -> LoadedModel:
        """Wait for the end of the load. Returns the model, or raises the failure."""
        await self.changes.until(lambda: not self.is_loading)
        if self._model is None:
            raise self._failure or LoadCancelled(
                f"the load of {clip(self.model_id)!r} was cancelled", model_id=self.model_id
            )
        return self._model

    def refuse(self, refusal: Callable[[], RequestRejected]) -> None:
        """Refuse all requests that are not admitted yet with `refusal()`. Running requests go on."""
        if self._model is not None:
            self._model.close_admission(refusal)
            self.leases.refuse(refusal)

    async def departure(self) -> None:
        """Wait until the model is gone. Raises `UnloadFailed` as soon as that takes too long."""
        await self.changes.until(lambda: self._phase is ModelPhase.GONE or self._overdue is not None)
        if self._overdue is not None:
            raise self._overdue

    def enforce_deadlines(self, *, unload_timeout_s: float) -> None:
        """End a drain while the model recovers, and a release that takes too long. Called each second.

        A harness that takes too long is cancelled, and callers no longer wait for it.
        """
        if self._phase is ModelPhase.DRAINING and self._is_recovering():
            self.move(Event.DRAINED)
        if self._closing_s is None or self._overdue is not None:
            return
        now_s = self._clock()
        closing_s, leaving_s = round(now_s - self._closing_s, 1), round(now_s - self._leaving_s, 1)
        if closing_s >= unload_timeout_s:
            self._overdue = _overdue(self.model_id, leaving_s, closing_s, unload_timeout_s)
            logger.error("unload is overdue: %s", self._overdue.message, extra=self._overdue.fields)
            self.changes.notify()
            self._scope.cancel()

    def _note_idle(self) -> None:
        self.used_s = self._clock()
        self.changes.notify()
        self._on_idle()

    def _report(self, reported: LoadProgress) -> None:
        """See `ProgressReporter`."""
        if self.is_loading and self._load_log.take(reported):
            self._on_change(self)

    # --------------------------------------------------------------------------------------------- what it is asked

    @property
    def has_loaded(self) -> bool:
        """Whether its load has ended with success."""
        return self._model is not None

    @property
    def loaded(self) -> LoadedModel:
        """The model; only for one that `has_loaded`."""
        assert self._model is not None
        return self._model

    @property
    def progress(self) -> LoadProgress:
        """The progress of its load, the last one if the load has ended."""
        return self._load_log.progress

    @property
    def fetched_bytes(self) -> int:
        """The bytes that its load has brought into the cache so far."""
        return self._load_log.fetched_bytes

    @property
    def load_failure(self) -> NeuronError | None:
        """Why its load failed. None if it has not failed so far."""
        return self._failure if self._model is None else None

    @property
    def unload_failure(self) -> NeuronError | None:
        """Why its harness could not release it. The failure of a load that was cancelled does not count."""
        if self._model is None and isinstance(self._failure, LoadFailed | SourceUnavailable):
            return None
        return self._failure

    def as_loading(self) -> LoadingModel:
        """Its load, as `/health` shows it."""
        return LoadingModel(
            model_id=self.model_id, progress=self._load_log.progress, elapsed_ms=self._load_log.elapsed_ms
        )

    def as_unloading(self) -> UnloadingModel:
        """Its unload, as `/health` shows it."""
        return UnloadingModel(
            model_id=self.model_id,
            elapsed_ms=round((self._clock() - self._leaving_s) * 1000),
            running_requests=self.leases.count,
            is_overdue=self._overdue is not None,
        )


def _engine_lost(model_id: str) -> Overloaded:
    return Overloaded(
        f"the engine of model {clip(model_id)!r} was lost while the request waited",
        reason=OverloadReason.ENGINE_LOST,
        retry_after_s=2,
        model_id=model_id,
    )


def _overdue(model_id: str, leaving_s: float, closing_s: float, limit_s: float) -> UnloadFailed:
    return UnloadFailed(
        f"model {clip(model_id)!r} is not gone after {leaving_s:g} s, {closing_s:g} s of them after its last request "
        f"(limit {limit_s:g} s); its memory may still be taken",
        model_id=model_id,
        leaving_s=leaving_s,
        closing_s=closing_s,
    )
