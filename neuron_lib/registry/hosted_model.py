"""One model of a host, from the start of its load until its memory is back: its record, and the task it lives in.

`phases` decides what an event does. This module tells it the events and acts on the phase that follows. It knows of no
other model.
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
from neuron_lib.logs import get_logger
from neuron_lib.registry.leases import Leases
from neuron_lib.registry.phases import Event, Phase, after
from neuron_lib.registry.progress import ProgressLog, advance, describe
from neuron_lib.shown import clip
from neuron_lib.sizes import MB
from neuron_lib.types import LoadingModel, LoadProgress, LoadStage, ModelSpec, ModelStatus, UnloadingModel

__all__ = ("HostedModel",)

logger = get_logger(__name__)


class HostedModel:
    """The only record of one model in one harness. Made when its load starts, and not used again once it is gone.

    One task runs `run`, and then `forget`. Everything else may be called from any task of the same event loop.
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
    ) -> None:
        """`model_id` is the public id. A drain takes at most `drain_timeout_s`.

        `on_change` is called after each change of the phase and each step of the load. It must not wait or raise.
        `clock` gives seconds.
        """
        self.spec = spec
        self.model_id = model_id
        self.changes = Changes()
        self.leases = Leases(on_idle=self.changes.notify)
        self.model: LoadedModel | None = None
        """The model, from the end of its load. None before, and for ever if the load fails or is cancelled."""
        self.progress = LoadProgress(stage=LoadStage.RESOLVING)
        """How far its load is, or was when the load ended."""
        self.loaded_unix_s: int | None = None
        """When its load ended, in seconds of Unix time."""
        self.failure: NeuronError | None = None
        """What went wrong when its harness loaded it, kept it or let it go."""
        self.loss: str | None = None
        """Why it left although nobody had asked it to."""
        self.overdue: UnloadFailed | None = None
        """Its harness does not let it go in time. Those who wait for its end are told this, and wait no longer."""
        self._harness = harness
        self._drain_timeout_s = drain_timeout_s
        self._clock = clock
        self._on_change = on_change
        self._phase = Phase.LOADING  # never RECOVERING, see `phase`
        self._left_by: Event | None = None
        self._started_s = clock()
        self._leaving_s = self._started_s
        self._closing_s: float | None = None
        """Since when its harness has been letting it go; None before that and after it."""
        self._scope = anyio.CancelScope()
        """Cancelled to give a load up, and to end a harness that does not let go in time."""
        self._progress_log = ProgressLog()

    def __repr__(self) -> str:
        return f"<HostedModel {self.model_id} {self.phase}, {self.leases!r}>"

    # ------------------------------------------------------------------------------------------------- the phase

    @property
    def phase(self) -> Phase:
        """Where it is in its life. Whether it is recovering is what its harness says at this moment."""
        return Phase.RECOVERING if self._phase is Phase.SERVING and self._is_recovering() else self._phase

    @property
    def serves(self) -> bool:
        """Whether it takes requests, recovering or not. Does not ask its harness."""
        return self._phase.serves

    @property
    def is_loading(self) -> bool:
        """Whether its load is under way and was not cancelled."""
        return self._phase is Phase.LOADING

    @property
    def is_leaving(self) -> bool:
        """Whether it is on its way out, or gone."""
        return self._phase.is_leaving

    @property
    def loaded(self) -> LoadedModel:
        """The model, which must have been loaded."""
        assert self.model is not None
        return self.model

    def move(self, event: Event) -> None:
        """Take `event` into account: change the phase as `phases` says, and start what belongs to the new phase."""
        before = self.phase
        phase = after(before, event)
        if phase is before:
            return
        self._phase = phase
        if phase.is_leaving and self._left_by is None:
            self._left_by, self._leaving_s = event, self._clock()
        if phase is Phase.CLOSING:
            self._closing_s = self._clock()
            if self.model is None:
                self._scope.cancel()
        self.changes.notify()
        self._on_change(self)

    def _is_recovering(self) -> bool:
        try:
            return self.loaded.info().status is ModelStatus.RECOVERING
        except Exception:  # a harness with a bug must not keep its model from being unloaded
            logger.exception("a model cannot say how it is", extra={"model_id": self.model_id})
            return False

    # ---------------------------------------------------------------------------------------------- its own task

    async def run(self) -> None:
        """Load the model, keep it until it is to go, drain it and let it go; return when its memory is back.

        Raises nothing that its harness does wrong: that is logged, and in `failure`.
        """
        self._log_progress()
        try:
            with self._scope:
                await self._live()
        except Exception as error:  # noqa: BLE001 - a harness with a bug must not take the other models with it
            self._fail(error)
        self._closing_s = None

    async def _live(self) -> None:
        async with self._harness.open(self.spec, model_id=self.model_id, report=self._report) as model:
            if self.is_leaving:
                return  # the load was cancelled in the moment in which it ended
            self.model, self.loaded_unix_s = model, int(time.time())
            self.move(Event.OPENED)
            try:
                await self._serve(model)
            finally:
                self._lose(model)  # which changes nothing once the model is closing

    async def _serve(self, model: LoadedModel) -> None:
        """Wait until the model is to go, by an order or by its own death. Then wait until it has drained."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch, model)
            await self.changes.until(lambda: self.is_leaving)
            with anyio.move_on_after(self._drain_timeout_s):
                await self.changes.until(lambda: self._phase is not Phase.DRAINING or not self.leases.count)
            self.move(Event.DRAINED)
            tasks.cancel_scope.cancel()
        if self.leases.count:
            logger.warning(
                "unloading under running requests",
                extra={"model_id": self.model_id, "running_requests": self.leases.count},
            )

    async def _watch(self, model: LoadedModel) -> None:
        reason = await model.wait_lost()
        logger.error("model lost", extra={"model_id": self.model_id, "reason": reason})
        if not self.is_leaving:
            self.loss = reason
        self._lose(model)

    def _lose(self, model: LoadedModel) -> None:
        """The model is lost. Its harness tells the requests that run or are being prepared: it knows more."""
        if self._phase is not Phase.CLOSING:
            model.close_admission(lambda: _engine_lost(self.model_id))
            self.move(Event.LOST)

    def _fail(self, error: Exception) -> None:
        """Record how the harness failed to load the model, to keep it, or to let it go."""
        failed_by_itself = self._left_by is Event.LOST and self.loss is None
        if isinstance(error, NeuronError):
            self.failure = error
        else:
            kind = UnloadFailed if self.is_leaving and not failed_by_itself else LoadFailed
            self.failure = kind(f"harness {self._harness.name!r} failed with a bug", model_id=self.model_id)
            self.failure.__cause__ = error
        if failed_by_itself:
            self.loss = cause_chain(self.failure)
            self._on_change(self)
        # Whoever asks for a load logs its failure, but sees no traceback.
        if self.model is not None or self.failure is not error or self.unload_failure is not None:
            text = "a load failed with a bug" if self.model is None else "a resident model failed"
            logger.error(text, exc_info=self.failure, extra={"model_id": self.model_id})

    def forget(self) -> None:
        """The model is gone. Log what nobody else can, and answer those who wait for this."""
        labels = {"model_id": self.model_id, "elapsed_ms": _ms(self._clock() - self._started_s)}
        if self.model is None and self.failure is None:
            logger.info("load cancelled: %s", describe(self.progress), extra=labels)
        if self.overdue is not None:
            logger.warning("overdue unload has ended", extra=labels)
        self.move(Event.RELEASED)

    # ------------------------------------------------------------------------------------------ what others do to it

    async def outcome(self) -> LoadedModel:
        """Wait for the end of the load. Returns the model, or raises why there is none."""
        await self.changes.until(lambda: not self.is_loading)
        if self.model is None:
            raise self.failure or LoadCancelled(
                f"the load of {clip(self.model_id)!r} was cancelled", model_id=self.model_id
            )
        return self.model

    def refuse(self, refusal: Callable[[], RequestRejected]) -> None:
        """Refuse requests that are not admitted yet with `refusal()`, whatever they wait for; what runs goes on."""
        if self.model is not None:
            self.model.close_admission(refusal)
            self.leases.refuse(refusal)

    async def departure(self) -> None:
        """Wait until the model is gone. Raises `UnloadFailed` as soon as that takes too long."""
        await self.changes.until(lambda: self._phase is Phase.GONE or self.overdue is not None)
        if self.overdue is not None:
            raise self.overdue

    @property
    def load_failure(self) -> NeuronError | None:
        """Why its load failed."""
        return self.failure if self.model is None else None

    @property
    def unload_failure(self) -> NeuronError | None:
        """What kept its harness from letting it go. A load that failed by itself while it was cancelled is none."""
        if self.model is None and isinstance(self.failure, LoadFailed | SourceUnavailable):
            return None
        return self.failure

    def enforce_deadlines(self, *, unload_timeout_s: float) -> None:
        """Cut short what leads nowhere: a drain while the model recovers, and a harness that does not let go in time.

        Called each second. What an overdue harness does is cancelled, and nobody is kept waiting for it any longer.
        """
        if self._phase is Phase.DRAINING and self._is_recovering():
            self.move(Event.DRAINED)
        if self._closing_s is None or self.overdue is not None:
            return
        now_s = self._clock()
        closing_s, leaving_s = round(now_s - self._closing_s, 1), round(now_s - self._leaving_s, 1)
        if closing_s < unload_timeout_s:
            return
        self.overdue = UnloadFailed(
            f"model {clip(self.model_id)!r} is not gone after {leaving_s:g} s, {closing_s:g} s of them after its last "
            f"request (limit {unload_timeout_s:g} s); its memory may still be taken",
            model_id=self.model_id,
            leaving_s=leaving_s,
            closing_s=closing_s,
        )
        logger.error("unload is overdue: %s", self.overdue.message, extra=self.overdue.fields)
        self.changes.notify()
        self._scope.cancel()

    # ------------------------------------------------------------------------------------------- what is shown of it

    def as_loading(self) -> LoadingModel:
        """Its load, as `/health` shows it."""
        elapsed_ms = _ms(self._clock() - self._started_s)
        return LoadingModel(model_id=self.model_id, progress=self.progress, elapsed_ms=elapsed_ms)

    def as_unloading(self) -> UnloadingModel:
        """Its way out, as `/health` shows it."""
        return UnloadingModel(
            model_id=self.model_id,
            elapsed_ms=_ms(self._clock() - self._leaving_s),
            running_requests=self.leases.count,
            is_overdue=self.overdue is not None,
        )

    def _report(self, reported: LoadProgress) -> None:
        """Take the harness's word for how far the load is, as far as that is news."""
        progress = advance(self.progress, reported)
        if self.is_loading and progress != self.progress:
            self.progress = progress
            self._log_progress()
            self._on_change(self)

    def _log_progress(self) -> None:
        progress = self.progress
        line = self._progress_log.line(progress, now_s=self._clock())
        if line is not None:
            fields: dict[str, str | int] = {"model_id": self.model_id}
            if progress.file is not None:
                fields["file"] = progress.file
            if progress.total_bytes is not None:
                fields["total_mb"] = progress.total_bytes // MB
            logger.info("%s", line, extra=fields)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _engine_lost(model_id: str) -> Overloaded:
    return Overloaded(
        f"the engine of model {clip(model_id)!r} was lost while the request waited",
        reason=OverloadReason.ENGINE_LOST,
        retry_after_s=2,
        model_id=model_id,
    )
