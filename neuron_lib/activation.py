"""How far the start-up loading has come. Owns that state; loads nothing itself (`preload` does)."""

import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from enum import Enum

import anyio
from msgspec import UNSET, Struct

from neuron_lib.types import (
    ActivationSnapshot,
    ActivationState,
    DeferredLoad,
    FailedLoad,
    ModelSpec,
    names_model,
    public_id,
)

__all__ = ("ActivationTracker",)


class _Stage(Enum):
    PENDING = "pending"
    IN_PROGRESS = "in progress"
    COMPLETED = "completed"
    FAILED = "failed"


class _Deferral(Struct, frozen=True):
    """The last failed try, and the clock's time of the next one."""

    error: str
    attempt: int
    next_try_s: float


class ActivationTracker:
    """Follows the default models from pending to completed or failed (wire contract §5).

    Every id is in exactly one of pending, in progress, completed and failed at any moment, and only one is in
    progress. A tracker without ids is ready from the start. A registry that follows it (`Registry.follow`) completes
    an id as soon as its model is resident, whoever loaded it. Not thread-safe: use it from the event loop's thread.
    """

    def __init__(self, specs: Sequence[ModelSpec] = (), *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with the public ids of `specs` pending, in their order; an id that is named twice counts once.

        `clock` gives the seconds by which the time until a next try is told.
        """
        self._clock = clock
        self._stages = {public_id(spec.model_id): _Stage.PENDING for spec in specs}
        self._quants = {public_id(spec.model_id): spec.quant for spec in reversed(specs)}
        self._deferrals: dict[str, _Deferral] = {}
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

    def defer_loading(
        self, model_id: str, error: str | None = None, *, attempt: int = 1, retry_in_s: float = 0.0
    ) -> None:
        """The load failed for a passing reason; the id is pending again, behind the other pending ones.

        `error` is the whole reason, `attempt` the number of the try that failed, and `retry_in_s` the time until the
        next one. Without an `error` nothing of this is shown. Raises ValueError if the id is not in progress.
        """
        self._move(model_id, _Stage.PENDING, allowed_from=(_Stage.IN_PROGRESS,))
        if error is not None:
            self._deferrals[model_id] = _Deferral(error, attempt, self._clock() + retry_in_s)

    def pause_until_retry(self, retry_in_s: float) -> None:
        """All others have had their turn: the deferred ids get their next try in `retry_in_s` seconds."""
        next_try_s = self._clock() + retry_in_s
        self._deferrals = {
            model_id: _Deferral(deferral.error, deferral.attempt, next_try_s)
            for model_id, deferral in self._deferrals.items()
        }

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

    @property
    def changed(self) -> anyio.Event:
        """Is set with the next change."""
        return self._changed

    def awaits(self, model_id: str) -> bool:
        """Whether the id is pending or in progress."""
        return self._stages.get(model_id) in {_Stage.PENDING, _Stage.IN_PROGRESS}

    def find(self, model_id: str) -> str | None:
        """The followed id that `model_id` means: itself, else the only one that it means in other words, such as
        without the quant. None if there is none.
        """
        if (id_ := public_id(model_id)) in self._stages:
            return id_
        meant = [known for known, quant in self._quants.items() if names_model(model_id, known, quant=quant)]
        return meant[0] if len(meant) == 1 else None

    def has_completed(self, model_id: str) -> bool:
        """Whether the id was loaded once since the start."""
        return self._stages.get(model_id) is _Stage.COMPLETED

    def deferral(self, model_id: str) -> DeferredLoad | None:
        """The last failed try of an id that gets another one; None for one that does not, or was not tried yet."""
        deferral = self._deferrals.get(model_id)
        if deferral is None:
            return None
        is_tried_now = self._stages[model_id] is _Stage.IN_PROGRESS
        left_s = 0.0 if is_tried_now else deferral.next_try_s - self._clock()
        return DeferredLoad(
            model_id=model_id,
            error=deferral.error,
            attempt=deferral.attempt,
            next_try_secs=max(0, math.ceil(left_s)),
        )

    def failure(self, model_id: str) -> str | None:
        """Why the id will not be loaded; None if it has not failed."""
        return self._errors.get(model_id)

    def snapshot(self) -> ActivationSnapshot:
        """The state now, as `/health` shows it; each list in the order in which its ids got there."""

        def ids(stage: _Stage) -> tuple[str, ...]:
            return tuple(model_id for model_id, current in self._stages.items() if current is stage)

        deferred = tuple(entry for model_id in self._deferrals if (entry := self.deferral(model_id)) is not None)
        return ActivationSnapshot(
            state=ActivationState.READY if self._ready.is_set() else ActivationState.PRE_WARMING,
            pending=ids(_Stage.PENDING),
            in_progress=next(iter(ids(_Stage.IN_PROGRESS)), None),
            completed=ids(_Stage.COMPLETED),
            failed=tuple(
                FailedLoad(model_id=model_id, error=self._errors[model_id]) for model_id in ids(_Stage.FAILED)
            ),
            deferred=deferred or UNSET,
        )

    async def wait_ready(self) -> None:
        """Return when start-up loading is over, failed models included; at once if it is."""
        await self._ready.wait()

    async def wait_settled(self, model_ids: Sequence[str]) -> None:
        """Return when none of the ids is pending or in progress any more; at once if none is."""
        while any(map(self.awaits, model_ids)):
            await self._changed.wait()

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
        if to in {_Stage.COMPLETED, _Stage.FAILED}:
            self._deferrals.pop(model_id, None)
        self._wake_followers()

    def _wake_followers(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
