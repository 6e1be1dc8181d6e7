"""Start-up loading: loads the configured models in order, one at a time, and reports the progress.

The progress follows from two things that `ActivationTracker` owns: the list of models, and the outcome of each load.
`load_default_models` loads the models and reports the outcomes to the tracker.
"""

import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio
from msgspec import UNSET, Struct
from msgspec.structs import replace

from neuron_lib.changes import Changes
from neuron_lib.errors import AlreadyLoaded, Overloaded, PreflightFailed, ShuttingDown, SourceUnavailable, cause_chain
from neuron_lib.logs import FieldLogger, get_logger
from neuron_lib.types import (
    ActivationSnapshot,
    ActivationState,
    DeferredLoad,
    FailedLoad,
    ModelSpec,
    names_model,
    public_id,
)

if TYPE_CHECKING:
    from neuron_lib.registry.registry import Registry  # that module imports this one

__all__ = ("RETRY_DELAYS_S", "ActivationTracker", "load_default_models")

logger: FieldLogger = get_logger(__name__)

RETRY_DELAYS_S: Final = (10.0, 20.0, 40.0, 80.0, 160.0, 300.0)
"""Pauses before models whose source did not answer get another turn (docs/reference/wire-contract.md#start-up)."""


class _Loaded(Struct, frozen=True):
    """The model was loaded once."""


class _Failed(Struct, frozen=True):
    """The model will not be loaded."""

    error: str


class _Deferred(Struct, frozen=True):
    """A try failed for a passing reason. The next one is at `next_try_s` of the clock. `error` None: show nothing."""

    error: str | None
    attempt: int
    next_try_s: float


_Outcome: TypeAlias = _Loaded | _Failed | _Deferred


class _Stage(Enum):
    PENDING = "pending"
    IN_PROGRESS = "in progress"
    COMPLETED = "completed"
    FAILED = "failed"


class ActivationTracker:
    """The progress of the default models: each id is either pending, in progress, completed or failed.

    At most one id is in progress. A tracker without ids is ready from the start. A registry that follows the tracker
    (`Registry.follow`) completes an id as soon as its model serves, even if another caller loaded it. A program that
    loads its models without `load_default_models` may call the methods itself. Belongs to the thread of one event loop.
    """

    def __init__(self, specs: Sequence[ModelSpec] = (), *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with the public ids of `specs` pending, in their order. An id that is named twice counts once.

        `clock` gives seconds for the time until the next try.
        """
        self._clock = clock
        self._quants: dict[str, str | None] = {}
        """The quant of each id of the list, in the order of the list."""
        for spec in specs:
            self._quants.setdefault(public_id(spec.model_id), spec.quant)
        self._outcomes: dict[str, _Outcome] = {}
        """The outcome of the last try of each id, in the order in which the outcomes became known."""
        self._current: str | None = None
        """The id that is in progress."""
        self._is_ready = not self._quants
        self._changes = Changes()

    def __repr__(self) -> str:
        return f"<ActivationTracker {self.snapshot()!r}>"

    # ------------------------------------------------------------------------------------------- what has happened

    def start_loading(self, model_id: str) -> None:
        """The id is being loaded now. Raises ValueError if it is not pending, or if another one is in progress."""
        if self._current is not None:
            raise ValueError(f"cannot start loading {model_id!r} while {self._current!r} is in progress")
        self._require(model_id, _Stage.PENDING, to=_Stage.IN_PROGRESS)
        self._current = model_id
        self._changes.notify()

    def complete_loading(self, model_id: str) -> None:
        """The id serves, through this load or another one. Raises ValueError if it is completed or failed already."""
        self._require(model_id, _Stage.PENDING, _Stage.IN_PROGRESS, to=_Stage.COMPLETED)
        self._record(model_id, _Loaded())

    def defer_loading(
        self, model_id: str, error: str | None = None, *, attempt: int = 1, retry_in_s: float = 0.0
    ) -> None:
        """The load failed for a passing reason. The id is pending again, behind the other pending ids.

        `error` is the whole reason, `attempt` the number of the try that failed, and `retry_in_s` the time until the
        next one. Without an `error` nothing of this is shown. Raises ValueError if the id is not in progress.
        """
        self._require(model_id, _Stage.IN_PROGRESS, to=_Stage.PENDING)
        self._record(model_id, _Deferred(error, attempt, self._clock() + retry_in_s))

    def pause_until_retry(self, retry_in_s: float) -> None:
        """All other ids have had their turn. The deferred ids get their next try in `retry_in_s` seconds."""
        next_try_s = self._clock() + retry_in_s
        for model_id, outcome in self._outcomes.items():
            if isinstance(outcome, _Deferred):
                self._outcomes[model_id] = replace(outcome, next_try_s=next_try_s)

    def fail_loading(self, model_id: str, error: str) -> None:
        """The id will not be loaded. `error` is the whole reason. Raises ValueError if it is completed or failed."""
        self._require(model_id, _Stage.PENDING, _Stage.IN_PROGRESS, to=_Stage.FAILED)
        self._record(model_id, _Failed(error))

    def mark_ready(self) -> None:
        """Start-up loading is over for the life of the process. Raises ValueError while an id is not settled."""
        open_ids = [*self._ids(_Stage.PENDING), *self._ids(_Stage.IN_PROGRESS)]
        if open_ids:
            raise ValueError(f"not ready: {', '.join(open_ids)} still to be settled")
        self._is_ready = True
        self._changes.notify()

    def _require(self, model_id: str, *stages: _Stage, to: _Stage) -> None:
        stage = self._stage(model_id)
        if stage is None:
            raise ValueError(f"{model_id!r} is not one of the models this tracker follows")
        if stage not in stages:
            raise ValueError(f"{model_id!r} cannot become {to.value}: it is {stage.value}")

    def _record(self, model_id: str, outcome: _Outcome) -> None:
        self._outcomes.pop(model_id, None)  # the id now comes after ids with an earlier outcome
        self._outcomes[model_id] = outcome
        if self._current == model_id:
            self._current = None
        self._changes.notify()

    # -------------------------------------------------------------------------------------- what follows from that

    def _stage(self, model_id: str) -> _Stage | None:
        """The stage of an id: pending, in progress, completed or failed. None if it is not in the list."""
        if model_id not in self._quants:
            return None
        if model_id == self._current:
            return _Stage.IN_PROGRESS
        match self._outcomes.get(model_id):
            case _Loaded():
                return _Stage.COMPLETED
            case _Failed():
                return _Stage.FAILED
            case _:
                return _Stage.PENDING

    def _ids(self, stage: _Stage) -> tuple[str, ...]:
        """The ids in one stage, in the order in which they reached it."""
        untried = [model_id for model_id in self._quants if model_id not in self._outcomes]
        return tuple(model_id for model_id in (*untried, *self._outcomes) if self._stage(model_id) is stage)

    def awaits(self, model_id: str) -> bool:
        """Whether the id is pending or in progress."""
        return self._stage(model_id) in {_Stage.PENDING, _Stage.IN_PROGRESS}

    def has_completed(self, model_id: str) -> bool:
        """Whether the id was loaded once since the start."""
        return self._stage(model_id) is _Stage.COMPLETED

    def find(self, model_id: str) -> str | None:
        """The id of the list that `model_id` means. None if there is none.

        That is `model_id` itself, or the only id that it means in another spelling, such as without the quant.
        """
        if (id_ := public_id(model_id)) in self._quants:
            return id_
        meant = [known for known, quant in self._quants.items() if names_model(model_id, known, quant=quant)]
        return meant[0] if len(meant) == 1 else None

    def deferral(self, model_id: str) -> DeferredLoad | None:
        """The last failed try of an id that gets another try. None for every other id."""
        outcome = self._outcomes.get(model_id)
        if not isinstance(outcome, _Deferred) or outcome.error is None:
            return None
        left_s = 0.0 if model_id == self._current else outcome.next_try_s - self._clock()
        return DeferredLoad(
            model_id=model_id,
            error=outcome.error,
            attempt=outcome.attempt,
            next_try_secs=max(0, math.ceil(left_s)),
        )

    def failure(self, model_id: str) -> str | None:
        """Why the id will not be loaded; None if it has not failed."""
        outcome = self._outcomes.get(model_id)
        return outcome.error if isinstance(outcome, _Failed) else None

    def snapshot(self) -> ActivationSnapshot:
        """The state now, as `/health` shows it. Each list has its ids in the order in which they reached it."""
        failed = ((model_id, self.failure(model_id)) for model_id in self._ids(_Stage.FAILED))
        deferred = tuple(entry for model_id in self._outcomes if (entry := self.deferral(model_id)) is not None)
        return ActivationSnapshot(
            state=ActivationState.READY if self._is_ready else ActivationState.PRE_WARMING,
            pending=self._ids(_Stage.PENDING),
            in_progress=self._current,
            completed=self._ids(_Stage.COMPLETED),
            failed=tuple(FailedLoad(model_id=model_id, error=error) for model_id, error in failed if error is not None),
            deferred=deferred or UNSET,
        )

    # ------------------------------------------------------------------------------------------------- who waits

    @property
    def changed(self) -> anyio.Event:
        """The event that is set with the next change."""
        return self._changes.next

    async def wait_ready(self) -> None:
        """Wait until start-up loading is over, also if models failed."""
        await self._changes.until(lambda: self._is_ready)

    async def wait_settled(self, model_ids: Sequence[str]) -> None:
        """Wait until none of the ids is pending or in progress."""
        await self._changes.until(lambda: not any(map(self.awaits, model_ids)))

    async def changes(self) -> AsyncIterator[ActivationSnapshot]:
        """The state now and after each change until ready. Changes between two looks of the caller are merged."""
        async for _ in self._changes:
            snapshot = self.snapshot()
            yield snapshot
            if snapshot.state is ActivationState.READY:
                return


async def load_default_models(
    registry: "Registry",
    specs: Sequence[ModelSpec],
    tracker: ActivationTracker,
    *,
    retry_delays_s: Sequence[float] = RETRY_DELAYS_S,
) -> None:
    """Load `specs` strictly in order, and report each step to `tracker`. At the end the tracker is ready.

    Never raises for a model. A failure is recorded, and logged as a WARNING with its whole chain of causes. Then the
    next entry gets its turn. Entries whose source did not answer get more tries: after all other entries, and after
    each pause in `retry_delays_s`. Then they count as failed. A model that another caller loads meanwhile counts as
    completed. Of two entries for one id the first counts. An empty list logs nothing. From now on `registry` follows
    `tracker`.

    Raises `ShuttingDown` when the registry admits no more. Models that are not loaded by then have not failed.

    Run it in the background, after the service has bound its socket, so that the host answers meanwhile.
    """
    registry.follow(tracker)
    due = _one_per_id(specs)
    if due:
        logger.info("loading default models", extra={"count": len(due)})
    for attempt, retry_in_s in enumerate((*retry_delays_s, None), start=1):
        due = [spec for spec in due if not await _settle(registry, spec, tracker, attempt, retry_in_s)]
        if not due or retry_in_s is None:
            break
        tracker.pause_until_retry(retry_in_s)
        with anyio.move_on_after(retry_in_s):
            await tracker.wait_settled([public_id(spec.model_id) for spec in due])
    tracker.mark_ready()


def _one_per_id(specs: Sequence[ModelSpec]) -> list[ModelSpec]:
    chosen: dict[str, ModelSpec] = {}
    for spec in specs:
        model_id = public_id(spec.model_id)
        if chosen.setdefault(model_id, spec) is not spec:
            logger.warning("default model is listed twice, its first entry counts", extra={"model_id": model_id})
    return list(chosen.values())


async def _settle(
    registry: "Registry", spec: ModelSpec, tracker: ActivationTracker, attempt: int, retry_in_s: float | None
) -> bool:
    """Try a model once. Returns False if it gets another try, `retry_in_s` seconds after this round."""
    model_id = public_id(spec.model_id)
    if tracker.has_completed(model_id):
        logger.info("default model was loaded by somebody else", extra={"model_id": model_id})
        return True
    started_s = time.monotonic()
    tracker.start_loading(model_id)
    try:
        await registry.load(spec, may_displace=False)
    except AlreadyLoaded:
        if not tracker.has_completed(model_id):  # the model serves under another id
            tracker.complete_loading(model_id)
        logger.info("default model was loaded by somebody else", extra={"model_id": model_id})
    except ShuttingDown:
        raise
    except Exception as error:  # noqa: BLE001 - no failure of a model may keep the next model or the host from serving
        if tracker.has_completed(model_id):  # another caller has loaded it meanwhile
            return True
        reason = cause_chain(error)
        if isinstance(error, SourceUnavailable | Overloaded) and retry_in_s is not None:
            tracker.defer_loading(model_id, reason, attempt=attempt, retry_in_s=retry_in_s)
            logger.warning(
                "source of default model unavailable, will retry: %s",
                reason,
                extra={"model_id": model_id, "attempt": attempt, "retry_in_s": retry_in_s},
            )
            return False
        tracker.fail_loading(model_id, reason)
        kind = {"kind": error.kind} if isinstance(error, PreflightFailed) else {}
        logger.warning(
            "failed to load default model, continuing: %s",
            reason,
            extra={"model_id": model_id, "elapsed_ms": _elapsed_ms(started_s)} | kind,
        )
    else:
        logger.info("loaded default model", extra={"model_id": model_id, "elapsed_ms": _elapsed_ms(started_s)})
    return True


def _elapsed_ms(started_s: float) -> int:
    return round((time.monotonic() - started_s) * 1000)
