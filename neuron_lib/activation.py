"""How far the start-up loading has come. Owns that state; loads nothing itself (`preload` does)."""

from collections.abc import AsyncIterator, Sequence
from enum import Enum

import anyio

from neuron_lib.types import ActivationSnapshot, ActivationState, FailedLoad, ModelSpec, public_id

__all__ = ("ActivationTracker",)


class _Stage(Enum):
    PENDING = "pending"
    IN_PROGRESS = "in progress"
    COMPLETED = "completed"
    FAILED = "failed"


class ActivationTracker:
    """Follows the default models from pending to completed or failed (wire contract §5).

    Every id is in exactly one of pending, in progress, completed and failed at any moment, and only one is in
    progress. A tracker without ids is ready from the start. Not thread-safe: use it from the event loop's thread.
    """

    def __init__(self, specs: Sequence[ModelSpec] = ()) -> None:
        """Start with the public ids of `specs` pending, in their order; an id that is named twice counts once."""
        self._stages = {public_id(spec.model_id): _Stage.PENDING for spec in specs}
        self._errors: dict[str, str] = {}
        self._ready = anyio.Event()
        self._changed = anyio.Event()
        if not self._stages:
            self._ready.set()

    def __repr__(self) -> str:
        return f"<ActivationTracker {self.snapshot()!r}>"

    def start_loading(self, model_id: str) -> None:
        """The id is being loaded now. Raises ValueError if it is not pending, or if another one is in progress."""
        busy = self.snapshot().in_progress
        if busy is not None:
            raise ValueError(f"cannot start loading {model_id!r} while {busy!r} is in progress")
        self._move(model_id, _Stage.IN_PROGRESS, allowed_from=(_Stage.PENDING,))

    def complete_loading(self, model_id: str) -> None:
        """The id is resident, loaded just now or found to be. Raises ValueError if it is settled already."""
        self._move(model_id, _Stage.COMPLETED, allowed_from=(_Stage.PENDING, _Stage.IN_PROGRESS))

    def defer_loading(self, model_id: str) -> None:
        """The load failed for a passing reason; the id is pending again, behind the other pending ones."""
        self._move(model_id, _Stage.PENDING, allowed_from=(_Stage.IN_PROGRESS,))

    def fail_loading(self, model_id: str, error: str) -> None:
        """The id will not be loaded; `error` is the whole reason. Raises ValueError if it is settled already."""
        self._move(model_id, _Stage.FAILED, allowed_from=(_Stage.PENDING, _Stage.IN_PROGRESS))
        self._errors[model_id] = error

    def mark_ready(self) -> None:
        """Start-up loading is over for the life of the process. Raises ValueError while an id is not settled."""
        snapshot = self.snapshot()
        open_ids = [*snapshot.pending, *([snapshot.in_progress] if snapshot.in_progress else [])]
        if open_ids:
            raise ValueError(f"not ready: {', '.join(open_ids)} still to be settled")
        self._ready.set()
        self._wake_followers()

    def snapshot(self) -> ActivationSnapshot:
        """The state now, as `/health` shows it; each list in the order in which its ids got there."""

        def ids(stage: _Stage) -> tuple[str, ...]:
            return tuple(model_id for model_id, current in self._stages.items() if current is stage)

        return ActivationSnapshot(
            state=ActivationState.READY if self._ready.is_set() else ActivationState.PRE_WARMING,
            pending=ids(_Stage.PENDING),
            in_progress=next(iter(ids(_Stage.IN_PROGRESS)), None),
            completed=ids(_Stage.COMPLETED),
            failed=tuple(
                FailedLoad(model_id=model_id, error=self._errors[model_id]) for model_id in ids(_Stage.FAILED)
            ),
        )

    async def wait_ready(self) -> None:
        """Return when start-up loading is over, failed models included; at once if it is."""
        await self._ready.wait()

    async def changes(self) -> AsyncIterator[ActivationSnapshot]:
        """The state now and after every change until ready; changes nobody awaited in between are merged."""
        while True:
            changed = self._changed
            snapshot = self.snapshot()
            yield snapshot
            if snapshot.state is ActivationState.READY:
                return
            await changed.wait()

    def _move(self, model_id: str, to: _Stage, *, allowed_from: tuple[_Stage, ...]) -> None:
        current = self._stages.get(model_id)
        if current is None:
            raise ValueError(f"{model_id!r} is not one of the models this tracker follows")
        if current not in allowed_from:
            raise ValueError(f"{model_id!r} cannot become {to.value}: it is {current.value}")
        del self._stages[model_id]  # so that it moves behind those that got there earlier
        self._stages[model_id] = to
        self._wake_followers()

    def _wake_followers(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
