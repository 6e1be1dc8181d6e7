"""One model of a host, from the start of its load until its memory is back. Holds that state; `registry` moves it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from neuron_lib.errors import (
    LoadCancelled,
    LoadFailed,
    NeuronError,
    RequestRejected,
    SourceUnavailable,
    UnloadFailed,
)
from neuron_lib.harness import Generation, LoadedModel
from neuron_lib.progress import ProgressLog
from neuron_lib.shown import clip
from neuron_lib.types import LoadProgress, LoadStage, ModelSpec

__all__ = ("Residence",)


@dataclass(slots=True, eq=False)
class Residence:
    """Loading until `settled` or `leave` is set; resident once `model` is; leaving once `leave` is; over with `gone`.

    What leaves drains, if it is resident, and then closes: its harness lets it go. `leaving_s` and `closing_s` are the
    seconds of the registry's clock at which that began, None while it has not. With `overdue` nobody waits any longer
    for the end of it. Cancelling `scope` ends all of it; cancelling `drain` ends the patience with running requests,
    now or later.
    """

    spec: ModelSpec
    model_id: str
    started_s: float
    model: LoadedModel | None = None
    failure: NeuronError | None = None
    progress: LoadProgress = field(default_factory=lambda: LoadProgress(stage=LoadStage.RESOLVING))
    progress_log: ProgressLog = field(default_factory=ProgressLog)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    settled: anyio.Event = field(default_factory=anyio.Event)
    leave: anyio.Event = field(default_factory=anyio.Event)
    drain: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    gone: anyio.Event = field(default_factory=anyio.Event)
    leaving_s: float | None = None
    closing_s: float | None = None
    left_unasked: bool = False
    """Its harness failed under it while it served."""
    overdue: UnloadFailed | None = None
    has_answer: anyio.Event = field(default_factory=anyio.Event)
    """Those who wait for its end can be answered: it is gone or overdue."""
    refusal: Callable[[], RequestRejected] | None = None
    entering: set[anyio.CancelScope] = field(default_factory=set)
    leases: int = 0
    idle: anyio.Event = field(default_factory=anyio.Event)

    @property
    def is_loading(self) -> bool:
        return not self.settled.is_set() and not self.leave.is_set()

    @property
    def is_serving(self) -> bool:
        return self.model is not None and not self.leave.is_set()

    async def outcome(self) -> LoadedModel:
        """Wait for the end of the load: the model, or the error that it ended with."""
        await self.settled.wait()
        if self.model is None:
            raise self.failure or LoadCancelled(
                f"the load of {clip(self.model_id)!r} was cancelled", model_id=self.model_id
            )
        return self.model

    @property
    def is_draining(self) -> bool:
        return self.model is not None and self.leave.is_set() and self.closing_s is None and not self.gone.is_set()

    @property
    def unload_failure(self) -> NeuronError | None:
        """What kept the harness from letting it go. A load that failed by itself while it was cancelled is none."""
        if self.model is None and isinstance(self.failure, LoadFailed | SourceUnavailable):
            return None
        return self.failure

    async def departure(self) -> None:
        """Wait until it is gone. Raises `UnloadFailed` as soon as that takes too long."""
        await self.has_answer.wait()
        if self.overdue is not None:
            raise self.overdue

    def dismiss(self, *, now_s: float, draining: bool = False) -> None:
        """Make it go: a load is cancelled, a model leaves now or after `draining`."""
        self.leave.set()
        if self.leaving_s is None:
            self.leaving_s = now_s
        if not draining:
            self.drain.cancel()
        if self.model is None:
            self.settled.set()
            self.scope.cancel()
            if self.closing_s is None:
                self.closing_s = now_s

    def refuse(self, refusal: Callable[[], RequestRejected]) -> None:
        """Refuse the requests that are not admitted yet, at whatever they wait; what runs goes on. The first counts."""
        if self.model is None:
            return
        if self.refusal is None:
            self.refusal = refusal
        self.model.close_admission(refusal)
        for scope in self.entering:
            scope.cancel()

    async def enter(self, generation: Generation) -> Generation:
        """Enter a generation. Raises what `refuse` was told, the moment it is told, and whatever entering raises."""
        with anyio.CancelScope() as scope:
            self.entering.add(scope)
            try:
                return await generation.__aenter__()
            finally:
                self.entering.remove(scope)
        assert self.refusal is not None  # only `refuse` cancels the scope
        raise self.refusal()

    def lease(self) -> None:
        self.leases += 1

    def release(self) -> None:
        self.leases -= 1
        if self.leases == 0:
            self.idle.set()
            self.idle = anyio.Event()

    async def drained(self) -> None:
        while self.leases:
            await self.idle.wait()
