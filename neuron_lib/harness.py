"""The narrow waist between the registry and whatever can host models."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Protocol, Self, TypeAlias, runtime_checkable

from neuron_lib.errors import RequestRejected
from neuron_lib.types import (
    EngineMeasures,
    EventBeforeEnd,
    GenerationEvent,
    LoadProgress,
    MemoryPlan,
    ModelInfo,
    ModelLoad,
    ModelSpec,
    RpcServer,
    Task,
    Usage,
)

__all__ = (
    "Estimator",
    "ForwardingReply",
    "Generation",
    "Harness",
    "LoadedModel",
    "MeasuredModel",
    "PlanningHarness",
    "ProgressReporter",
    "Reply",
    "RpcHarness",
    "SelectiveHarness",
)

ProgressReporter: TypeAlias = Callable[[LoadProgress], None]
"""Called with every step of a load; cheap, never blocks, never raises."""


class Reply(Protocol):
    """What becomes of one task. Lives for one `async with` block.

    Entering prepares the task, checks the limits and waits for room. Every refusal (`RequestRejected`) is raised there,
    before anything was made, and first of all for a task that the model cannot do. Iterating yields `Started`, deltas
    or vectors, then `Finished`, and ends. Leaving the block, by whatever way, frees what the request held. Iterating
    raises `EngineDead` or `EngineFailed` when the reply is lost half-way, `SuspectRequest` when it was lost twice
    before it began, `InvalidGrammar` when the request's grammar becomes too complex on the way.
    """

    @property
    def retried(self) -> bool:
        """Whether it was begun once more, because the engine that made it died before anything was given out."""
        ...

    @property
    def usage(self) -> Usage:
        """What it has cost so far; `Finished` says the same at the end. This is for a reply that was lost half-way."""
        ...

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None: ...
    def __aiter__(self) -> AsyncIterator[GenerationEvent]: ...
    async def __anext__(self) -> GenerationEvent: ...


@runtime_checkable
class ForwardingReply(Reply, Protocol):
    """A `Reply` that can hand events over without waking the task that iterates. A backend need not offer this."""

    def forward(self, take: Callable[[EventBeforeEnd], bool]) -> None:
        """Give events to `take` at once while the task that iterates waits for the next event. Call it when entered.

        The order of all events stays. An event that `take` got is not given by iteration. `take` is called in the task
        that hears the backend, so it must not wait. It returns whether it has room for more. If not, the next event
        comes by iteration, and `take` is asked again when the iterating task waits again. The events that iteration
        always gives are `Started` and `Finished`. An exception of `take` is raised by iteration.
        """
        ...


Generation: TypeAlias = Reply
"""The older name of `Reply`."""


@runtime_checkable
class Estimator(Protocol):
    """A `Harness` that can say before a load how much memory it takes. A backend need not offer this."""

    async def estimate(self, spec: ModelSpec) -> MemoryPlan:
        """How a load of this spec would be done now, and what it would take. Loads and downloads no weights.

        Raises `LoadFailed` for a model that cannot be loaded at all, and `SourceUnavailable`. A model that only does
        not fit is no error here.
        """
        ...


class LoadedModel(Protocol):
    """A model that answers. Lives from the end of its load to the end of its `Harness.open` block."""

    def info(self) -> ModelInfo:
        """What `/models` shows; memory only, never blocks."""
        ...

    def load(self) -> ModelLoad:
        """How busy it is; memory only, never blocks."""
        ...

    def run(self, task: Task) -> Reply:
        """The reply to `task`, not yet started; nothing happens, and nothing is refused, until it is entered."""
        ...

    def close_admission(self, refusal: Callable[[], RequestRejected]) -> None:
        """Refuse every request that has not begun, or is still to come, with `refusal()`; what runs goes on."""
        ...

    async def wait_lost(self) -> str:
        """Wait until the model dies by itself, which it may never do; returns the reason."""
        ...


@runtime_checkable
class MeasuredModel(LoadedModel, Protocol):
    """A `LoadedModel` whose engine counts what it does. A backend need not offer this."""

    def measures(self) -> EngineMeasures | None:
        """What the engine has counted since it started; None if it has told nothing yet. Memory only, never blocks."""
        ...


class Harness(Protocol):
    """A backend that can host models, registered under its `name`."""

    @property
    def name(self) -> str:
        """What a `ModelSpec.harness` says to get here."""
        ...

    def open(
        self, spec: ModelSpec, *, model_id: str, report: ProgressReporter
    ) -> AbstractAsyncContextManager[LoadedModel]:
        """Load a model on entering, unload it on leaving.

        `model_id` is the public id to publish (`spec.model_id` without its scheme). Entering takes as long as the
        load and raises `LoadFailed` or `SourceUnavailable`; cancelling it aborts the load. When leaving has
        returned, all memory of the model has been given back, and reading on in a reply of it raises `EngineDead`. The
        registry enters and leaves it in one task.

        Leaving must come to an end. What takes longer than the registry's `unload_timeout_s` is reported as
        `UnloadFailed` and cancelled, so shield only what has a limit of its own.
        """
        ...

    async def known_capabilities(self, model_id: str) -> tuple[str, ...] | None:
        """What a model that is not loaded could do, from local files alone; None when that cannot be said."""
        ...


@runtime_checkable
class PlanningHarness(Harness, Protocol):
    """A `Harness` that knows before a load how much memory the load will take. A backend need not offer this."""

    async def memory_need(self, spec: ModelSpec) -> Mapping[str, int]:
        """The bytes by the name of the device: "cpu", "gpu0", "gpu1" and so on. Empty if that cannot be said.

        Raises `LoadFailed` for a spec that cannot be loaded, and `SourceUnavailable`.
        """
        ...


@runtime_checkable
class SelectiveHarness(Harness, Protocol):
    """A `Harness` that says which models it can load. On a host with several harnesses a load may then name none."""

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats of files that it loads, such as "gguf", for people."""
        ...

    async def takes(self, spec: ModelSpec) -> bool:
        """Whether the files of the model are of one of the formats. Asks a hub if no file is here.

        Raises `LoadFailed` for a model that nothing can load, and `SourceUnavailable`.
        """
        ...


@runtime_checkable
class RpcHarness(Harness, Protocol):
    """A `Harness` whose models may use devices of other hosts. A backend need not offer this."""

    def rpc_servers(self) -> tuple[RpcServer, ...]:
        """The servers of those devices; memory only, never blocks."""
        ...
