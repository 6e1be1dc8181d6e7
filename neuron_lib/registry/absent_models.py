"""The answer to a request for a model that does not serve: when to come back, or why the model is not loaded.

Loads nothing.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import anyio

from neuron_lib.changes import Changes
from neuron_lib.errors import ModelLoading, ModelNotLoaded, cause_chain
from neuron_lib.registry.hosted_model import HostedModel
from neuron_lib.registry.progress import describe, retry_after_s
from neuron_lib.registry.startup import ActivationTracker
from neuron_lib.types import FailedLoad, LoadProgress, public_id

__all__ = ("AbsentModels",)

_REMEMBERED_FAILURES: Final = 64


class AbsentModels:
    """Remembers the models that were lost, the loads that failed, and the loads that wait for a model to be gone.

    Ids are public ones, unless a method says otherwise.
    """

    def __init__(self) -> None:
        """Begins without default models. `activation` may be replaced by a tracker that awaits some."""
        self.activation: ActivationTracker = ActivationTracker()
        self._queued: Counter[str] = Counter()
        self._lost: dict[str, FailedLoad] = {}
        self._failures: dict[str, str] = {}

    def lost(self) -> tuple[FailedLoad, ...]:
        """The models that were given up and were not loaded again."""
        return tuple(self._lost.values())

    @contextmanager
    def queued(self, model_id: str) -> Iterator[None]:
        """Within the block a load waits for the model to be gone."""
        self._queued[model_id] += 1
        try:
            yield
        finally:
            self._queued[model_id] -= 1
            if not self._queued[model_id]:
                del self._queued[model_id]

    def note(self, model: HostedModel) -> None:
        """Remember how the load of `model` ended, and why the model was lost. Called after each change of the model."""
        model_id = model.model_id
        if model.serves:  # earlier failures no longer count
            self._lost.pop(model_id, None)
            self._failures.pop(model_id, None)
            if self.activation.awaits(model_id):
                self.activation.complete_loading(model_id)
        elif model.loss is not None:
            self._lost[model_id] = FailedLoad(model_id=model_id, error=model.loss)
        elif model.load_failure is not None:
            self._failures.pop(model_id, None)
            self._failures[model_id] = cause_chain(model.load_failure)
            if len(self._failures) > _REMEMBERED_FAILURES:
                del self._failures[next(iter(self._failures))]

    def explain(self, model_id: str, model: HostedModel | None) -> ModelNotLoaded:
        """The refusal of a request to a model that does not serve. Takes any spelling of the id.

        `model` is the hosted model that the id means, if there is one. Returns `ModelLoading` if the model will serve
        without another load.
        """
        id_ = self.activation.find(model_id) or public_id(model_id)
        if model is not None and model.is_loading:
            return _loading(model_id, model.progress)
        deferral = self.activation.deferral(id_)
        if deferral is not None:
            return ModelLoading(
                model_id,
                f"its next try to load is in {deferral.next_try_secs} s, after: {deferral.error}",
                stage="deferred",
                retry_after_s=retry_after_s(deferral.next_try_secs),
                attempt=deferral.attempt,
            )
        if id_ in self._queued or self.activation.awaits(id_):
            text = "it waits for its turn to be loaded"
            return ModelLoading(model_id, text, stage="pending", retry_after_s=retry_after_s(None))
        if id_ in self._lost:
            return ModelNotLoaded(model_id, f"it was given up: {self._lost[id_].error}")
        reason = self._failures.get(id_) or self.activation.failure(id_)
        return ModelNotLoaded(model_id, None if reason is None else f"its last load failed: {reason}")

    def activation_awaits(self, model_id: str) -> bool:
        """Whether the model is a default model that start-up loading will still load. Takes any spelling of the id."""
        id_ = self.activation.find(model_id)
        return id_ is not None and self.activation.awaits(id_)

    async def next_change(self, model: HostedModel | None, changes: Changes) -> None:
        """Wait until `explain` may say something else. `changes` are those of all models."""
        if model is not None and model.is_loading:
            await model.changes.until(lambda: not model.is_loading)
            return
        events = (changes.next, self.activation.changed)
        async with anyio.create_task_group() as tasks:
            for event in events:
                tasks.start_soon(_end_with, event, tasks.cancel_scope)


async def _end_with(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _loading(model_id: str, progress: LoadProgress) -> ModelLoading:
    numbers = {
        "fraction": progress.fraction,
        "eta_s": progress.eta_s,
        "queue_position": progress.queue_position,
    }
    return ModelLoading(
        model_id,
        f"it is being loaded ({describe(progress)})",
        stage=progress.stage,
        retry_after_s=retry_after_s(progress.eta_s),
        **{name: number for name, number in numbers.items() if number is not None},
    )
