"""One model of a host, from the start of its load until its memory is back. Holds that state; `registry` moves it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from neuron_lib.errors import LoadCancelled, NeuronError, RequestRejected
from neuron_lib.harness import LoadedModel
from neuron_lib.progress import ProgressLog
from neuron_lib.types import LoadProgress, LoadStage, ModelSpec

__all__ = ("Residence",)


@dataclass(slots=True, eq=False)
class Residence:
    """Loading until `settled` or `leave` is set; resident once `model` is; leaving once `leave` is; over with `gone`.

    Cancelling `scope` ends all of it; cancelling `drain` ends the patience with running requests, now or later.
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
            raise self.failure or LoadCancelled(f"the load of {self.model_id!r} was cancelled", model_id=self.model_id)
        return self.model

    def dismiss(self, refusal: Callable[[], RequestRejected], *, draining: bool = False) -> None:
        """Make it go: a load is cancelled, a model leaves now or after `draining`; `refusal` is for queued requests."""
        self.leave.set()
        if not draining:
            self.drain.cancel()
        if self.model is None:
            self.scope.cancel()
        else:
            self.model.close_admission(refusal)

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
