"""The task a model lives in: opened, serving, drained, let go. Moves one `Residence` and knows of no other."""

from collections.abc import Callable
from dataclasses import dataclass

import anyio

from neuron_lib.errors import LoadFailed, NeuronError, Overloaded, OverloadReason, UnloadFailed, cause_chain
from neuron_lib.harness import Harness, LoadedModel, ProgressReporter
from neuron_lib.logs import get_logger
from neuron_lib.residence import Residence
from neuron_lib.shown import clip
from neuron_lib.types import ModelStatus

__all__ = ("ModelTask", "supervise")

logger = get_logger(__name__)


@dataclass(slots=True, frozen=True, kw_only=True)
class ModelTask:
    """One model in one harness. `on_resident` is told when it serves, `on_lost` why it left without an order."""

    harness: Harness
    residence: Residence
    drain_timeout_s: float
    clock: Callable[[], float]
    report: ProgressReporter
    on_resident: Callable[[], None]
    on_lost: Callable[[str], None]

    async def run(self) -> None:
        """Return when the model is gone. Whatever its harness does wrong is logged and in `Residence.failure`."""
        residence = self.residence
        try:
            with residence.scope:
                await self._keep()
        except Exception as error:  # noqa: BLE001 - a harness with a bug must not take the other models with it
            self._fail(error)
        residence.closing_s = None

    async def _keep(self) -> None:
        residence = self.residence
        async with self.harness.open(residence.spec, model_id=residence.model_id, report=self.report) as model:
            if residence.leave.is_set():
                return  # cancelled in the very moment in which the load ended
            residence.model = model
            residence.settled.set()
            self.on_resident()
            try:
                await self._serve(model)
            finally:
                if not residence.leave.is_set():
                    residence.left_unasked = True
                    self._dismiss_lost(model)
                residence.closing_s = self.clock()

    async def _serve(self, model: LoadedModel) -> None:
        """Wait for the order to leave, or for the model's own death; then drain, as long as that can lead to an end."""
        residence = self.residence
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch, model)
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

    async def _watch(self, model: LoadedModel) -> None:
        reason = await model.wait_lost()
        residence = self.residence
        logger.error("model lost", extra={"model_id": residence.model_id, "reason": reason})
        if not residence.leave.is_set():
            self.on_lost(reason)
        self._dismiss_lost(model)

    def _dismiss_lost(self, model: LoadedModel) -> None:
        """What runs and what is being prepared hears of the loss from the harness, which knows more."""
        model.close_admission(lambda: _engine_lost(self.residence.model_id))
        self.residence.dismiss(now_s=self.clock())

    def _fail(self, error: Exception) -> None:
        """Record how the harness failed to load the model, to keep it, or to let it go."""
        residence = self.residence
        model_id, was_resident = residence.model_id, residence.model is not None
        if isinstance(error, NeuronError):
            failure = error
        else:
            kind = UnloadFailed if residence.leave.is_set() and not residence.left_unasked else LoadFailed
            failure = kind(f"harness {self.harness.name!r} failed with a bug", model_id=model_id)
            failure.__cause__ = error
        residence.failure = failure
        if residence.left_unasked:
            self.on_lost(cause_chain(failure))
        # Whoever asks for a load logs its failure, but sees no traceback.
        if was_resident or failure is not error or residence.unload_failure is not None:
            text = "a resident model failed" if was_resident else "a load failed with a bug"
            logger.error(text, exc_info=failure, extra={"model_id": model_id})


def supervise(residence: Residence, *, now_s: float, unload_timeout_s: float) -> None:
    """Cut short what leads nowhere: a drain of requests that cannot run, a harness that does not let go.

    Nobody is kept waiting for such a harness any longer, and what it does instead is cancelled.
    """
    if residence.is_draining and residence.model is not None and _is_recovering(residence.model):
        residence.drain.cancel()
    if residence.closing_s is None or residence.leaving_s is None or residence.overdue is not None:
        return
    closing_s, leaving_s = (round(now_s - since_s, 1) for since_s in (residence.closing_s, residence.leaving_s))
    if closing_s < unload_timeout_s:
        return
    model_id = residence.model_id
    residence.overdue = UnloadFailed(
        f"model {clip(model_id)!r} is not gone after {leaving_s:g} s, {closing_s:g} s of them after its last request "
        f"(limit {unload_timeout_s:g} s); its memory may still be taken",
        model_id=model_id,
        leaving_s=leaving_s,
        closing_s=closing_s,
    )
    logger.error("unload is overdue: %s", residence.overdue.message, extra=residence.overdue.fields)
    residence.has_answer.set()
    residence.scope.cancel()


def _is_recovering(model: LoadedModel) -> bool:
    """Nothing can run while it does, so nothing comes to its end."""
    return model.info().status is ModelStatus.RECOVERING


def _engine_lost(model_id: str) -> Overloaded:
    return Overloaded(
        f"the engine of model {clip(model_id)!r} was lost while the request waited",
        reason=OverloadReason.ENGINE_LOST,
        retry_after_s=2,
        model_id=model_id,
    )
