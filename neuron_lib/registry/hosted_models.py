"""All models of one host, by their ids: finds them, starts their tasks, and enforces their deadlines."""

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import anyio
from anyio.abc import TaskGroup

from neuron_lib.changes import Changes
from neuron_lib.errors import Overloaded, OverloadReason
from neuron_lib.harness import Harness
from neuron_lib.logs import FieldLogger, get_logger
from neuron_lib.registry.hosted_model import HostedModel
from neuron_lib.registry.phases import Event
from neuron_lib.types import EndedLoad, ModelSpec, names_model, public_id, take_apart

__all__ = ("HostLimits", "HostedModels")

logger: FieldLogger = get_logger(__name__)

_TICK_S: Final = 1.0
_TOO_MANY_LOADS_RETRY_S: Final = 30


@dataclass(slots=True, kw_only=True)
class HostLimits:
    """What a host allows its models. May be changed at any time. A load takes its drain time when it starts."""

    drain_timeout_s: float
    """How long an unload waits for running requests."""
    unload_timeout_s: float
    """How long an unload then waits for the harness to let the model go."""
    max_loads: int
    """The most loads at the same time, including loads that wait."""


class HostedModels(dict[str, HostedModel]):
    """The models that are loading, serving or leaving, by their public ids, in the order in which their loads began.

    Each lives in a task of this object, which is entered with `async with`. Leaving the block makes all models leave
    without waiting for their requests, and waits until the last is gone. `changes` tells of each change of the phase of
    a model and of the progress of a load.
    """

    def __init__(
        self,
        *,
        limits: HostLimits,
        clock: Callable[[], float],
        on_change: Callable[[HostedModel], None],
        on_idle: Callable[[], None],
        on_load: Callable[[EndedLoad], None],
        on_released: Callable[[HostedModel], Awaitable[None]],
        on_tick: Callable[[], None],
    ) -> None:
        """`clock` gives seconds. `on_change` is called before those who wait for `changes` wake up.

        `on_load` is called at the end of each load, and `on_idle` when the last request of a model has ended.
        `on_released` is awaited when the memory of a model is back. Callers of the unload are told after that.
        `on_tick` is called each second, and must not raise.
        """
        super().__init__()
        self.changes: Changes = Changes()
        self.limits = limits
        self._clock = clock
        self._on_change = on_change
        self._on_idle = on_idle
        self._on_load = on_load
        self._on_released = on_released
        self._on_tick = on_tick
        self._ticked_s = clock()
        self._tasks: TaskGroup | None = None  # None outside of the block

    async def __aenter__(self) -> Self:
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self._supervise, name="registry tick")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._tasks is not None  # entered
        tasks, self._tasks = self._tasks, None
        for model in self.values():
            model.move(Event.REGISTRY_LEFT)
        self.changes.notify()
        # The task group is not told of `exc`. It would wrap it in a group, and cancel the models before they are
        # unloaded.
        await tasks.__aexit__(None, None, None)

    def start_soon(self, run: Callable[[], Coroutine[Any, Any, None]], *, name: str) -> None:
        """Run a task that lives as long as the block. It must end by itself when the block is left."""
        assert self._tasks is not None  # entered
        self._tasks.start_soon(run, name=name)

    # ---------------------------------------------------------------------------------------------------- finding

    def find(self, model_id: str) -> HostedModel | None:
        """The model of that id, or the only one that the id means in another spelling, such as without the quant."""
        model = self.get(public_id(model_id))
        if model is not None:
            return model
        meant = [m for m in self.values() if names_model(model_id, m.model_id, quant=m.spec.quant)]
        return meant[0] if len(meant) == 1 else None

    def find_same(self, spec: ModelSpec) -> HostedModel | None:
        """The model that a load of `spec` would load again: it has the same id, or the same repository and quant."""
        model_id = public_id(spec.model_id)
        quant = take_apart(model_id).quant or spec.quant
        if quant is None or model_id in self:
            return self.get(model_id)
        return self.find(f"{take_apart(model_id).path}:{quant}")

    def serving(self) -> list[HostedModel]:
        """The models that serve."""
        return [model for model in self.values() if model.serves]

    # ----------------------------------------------------------------------------------------------------- living

    def load(self, spec: ModelSpec, harness: Harness) -> HostedModel:
        """Start to load a model that is not here. Raises `Overloaded` if too many loads are under way."""
        if self._tasks is None:
            raise RuntimeError("a Registry must be entered with `async with` before it loads models")
        model_id = public_id(spec.model_id)
        # A cancelled load counts until its harness has given back what the load held.
        if (loads := sum(not model.has_loaded for model in self.values())) >= self.limits.max_loads:
            raise Overloaded(
                f"{loads} loads are under way on this host, and it takes no more at once",
                reason=OverloadReason.TOO_MANY_LOADS,
                retry_after_s=_TOO_MANY_LOADS_RETRY_S,
                model_id=model_id,
            )
        model = self[model_id] = HostedModel(
            spec,
            model_id=model_id,
            harness=harness,
            drain_timeout_s=self.limits.drain_timeout_s,
            clock=self._clock,
            on_change=self._note,
            on_idle=self._on_idle,
            on_load=self._on_load,
        )
        self._tasks.start_soon(self._host, model, name=f"model {model_id}")
        self.changes.notify()
        return model

    async def _host(self, model: HostedModel) -> None:
        try:
            await model.run()
            if model.is_leaving:
                await self._on_released(model)
        finally:
            del self[model.model_id]
            model.forget()

    def _note(self, model: HostedModel) -> None:
        self._on_change(model)
        self.changes.notify()

    async def _supervise(self) -> None:
        """Enforce the deadlines each second. Ends when the block is left and the last model is gone."""
        while self._tasks is not None or self:
            self._ticked_s = self._clock()
            for model in tuple(self.values()):
                try:
                    model.enforce_deadlines(unload_timeout_s=self.limits.unload_timeout_s)
                except Exception:  # a harness with a bug must not stop the supervision of other models
                    logger.exception("supervision of a model failed", extra={"model_id": model.model_id})
            self._on_tick()
            with anyio.move_on_after(_TICK_S):
                await self.changes.until(lambda: self._tasks is None and not self)

    def tick_age_s(self) -> float:
        """Seconds since the deadlines were last enforced. Far more than one means that the supervision hangs."""
        return self._clock() - self._ticked_s

    async def wait_idle(self) -> None:
        """Wait until no request runs or waits."""
        while busy := [model for model in self.values() if model.leases.count]:
            await busy[0].changes.until(lambda: not busy[0].leases.count)
