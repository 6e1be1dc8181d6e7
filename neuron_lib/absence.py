"""What to tell those who want a model that does not serve. Owns what is remembered of such models; loads nothing."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from neuron_lib.activation import ActivationTracker
from neuron_lib.errors import ModelLoading, ModelNotLoaded
from neuron_lib.progress import describe, retry_after_s
from neuron_lib.types import FailedLoad, LoadProgress, public_id

__all__ = ("Absences",)

_REMEMBERED_FAILURES: Final = 64


class Absences:
    """The models that are awaited, that a load waits for, whose last load failed, or that were given up.

    Ids are public ones.
    """

    def __init__(self) -> None:
        """Await none; `activation` may be replaced by a tracker that awaits some."""
        self.activation = ActivationTracker()
        self._queued: Counter[str] = Counter()
        self._lost: dict[str, FailedLoad] = {}
        self._failures: dict[str, str] = {}

    def lost(self) -> tuple[FailedLoad, ...]:
        """The models that died by themselves and were not loaded again."""
        return tuple(self._lost.values())

    @contextmanager
    def queued(self, model_id: str) -> Iterator[None]:
        """A load of the model waits in this block."""
        self._queued[model_id] += 1
        try:
            yield
        finally:
            self._queued[model_id] -= 1
            if not self._queued[model_id]:
                del self._queued[model_id]

    def end(self, model_id: str) -> None:
        """The model is resident, so nothing of the past counts any more."""
        self._lost.pop(model_id, None)
        self._failures.pop(model_id, None)
        if self.activation.awaits(model_id):
            self.activation.complete_loading(model_id)

    def note_loss(self, model_id: str, reason: str) -> None:
        """The model died by itself and is given up."""
        self._lost[model_id] = FailedLoad(model_id=model_id, error=reason)

    def note_failure(self, model_id: str, reason: str) -> None:
        """A load failed. The last 64 models of which that is true are remembered."""
        self._failures.pop(model_id, None)
        self._failures[model_id] = reason
        if len(self._failures) > _REMEMBERED_FAILURES:
            del self._failures[next(iter(self._failures))]

    def explain(self, model_id: str, progress: LoadProgress | None) -> ModelNotLoaded:
        """The refusal of a request to a model that does not serve; `progress` is that of its load, if one runs.

        `ModelLoading` if it will serve without anybody's doing. Takes any spelling of the id.
        """
        id_ = self.activation.find(model_id) or public_id(model_id)
        if progress is not None:
            return _loading(model_id, progress)
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
