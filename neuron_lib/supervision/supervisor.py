"""The engines of one model, one after another: which one serves, and what comes after a death.

Owns the engine of a model and knows nothing of requests. `restart_policy` decides when the next engine is started.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Generic, TypeAlias, TypeVar

import anyio
from anyio.abc import TaskStatus

from neuron_lib.errors import (
    EngineDead,
    LoadFailed,
    Overloaded,
    OverloadReason,
    SourceUnavailable,
    cause_chain,
    first_leaf,
)
from neuron_lib.logs import FieldLogger, get_logger
from neuron_lib.supervision.death import Death
from neuron_lib.supervision.engine import Engine
from neuron_lib.supervision.restart_policy import RestartPolicy

__all__ = ("EngineStarter", "EngineSupervisor", "supervise")

logger: FieldLogger = get_logger(__name__)

_RETRY_AFTER_S: Final = 2
"""The gateway tells its own clients the same about a model that recovers."""


EngineT = TypeVar("EngineT", bound=Engine)

EngineStarter: TypeAlias = Callable[[], AbstractAsyncContextManager[EngineT]]


@asynccontextmanager
async def supervise(
    start: EngineStarter[EngineT], *, model_id: str, policy: RestartPolicy | None = None
) -> AsyncIterator["EngineSupervisor[EngineT]"]:
    """Keep an engine alive for the length of the block; it has loaded its model when the block begins.

    `start` opens a new engine, the same each time. Raises `LoadFailed` if the first one does not load, and
    `SourceUnavailable` if this host has no means to start it now. A later one that does not load has died, which is for
    `policy` to judge; one that cannot be started is tried again as long as the block lasts.
    """
    supervisor = EngineSupervisor[EngineT](start, model_id=model_id, policy=policy or RestartPolicy())
    try:
        async with anyio.create_task_group() as tasks:
            await tasks.start(supervisor._run)
            try:
                yield supervisor
            finally:
                supervisor._lose("the model was unloaded")
                tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        leaf = first_leaf(group)
        raise leaf from leaf.__cause__


class EngineSupervisor(Generic[EngineT]):
    """The engine of a model now, or the wait for the next one."""

    def __init__(self, start: EngineStarter[EngineT], *, model_id: str, policy: RestartPolicy) -> None:
        self.model_id: Final = model_id
        self.restarts: int = 0
        self.last_death: str | None = None
        self.on_death: Callable[[Death], object] = lambda _death: None
        """Called with the death of an engine that has served, before the requests in it hear of it."""
        self._start: Final = start
        self._policy: Final = policy
        self._engine: EngineT | None = None
        self._latest: EngineT | None = None
        self._loss: str | None = None
        self._changed = anyio.Event()

    def __repr__(self) -> str:
        return f"<EngineSupervisor {self.model_id} {self._loss or self.engine or 'recovering'}>"

    @property
    def latest(self) -> EngineT:
        """The latest engine that has served. It may be dead; what it has said about the model is true."""
        assert self._latest is not None  # the first engine was ready before anybody could ask
        return self._latest

    @property
    def engine(self) -> EngineT | None:
        """The engine that serves; None while there is none."""
        return self._engine if self._engine is not None and self._engine.death is None else None

    @property
    def loss(self) -> str | None:
        """Why no engine comes any more; None as long as one serves or will."""
        return self._loss

    def require_engine(self) -> EngineT:
        """The engine that serves. Raises `Overloaded` while there is none: the next one comes soon."""
        engine = self.engine
        if engine is None:
            raise Overloaded(
                f"the engine of model {self.model_id!r} has died and is started again",
                reason=OverloadReason.ENGINE_LOST,
                retry_after_s=_RETRY_AFTER_S,
                model_id=self.model_id,
            )
        return engine

    async def successor(self, dead: EngineT) -> EngineT:
        """Wait for the engine after `dead`. Raises `EngineDead` if none comes."""
        while True:
            if self._loss is not None:
                raise EngineDead(self.model_id, self._loss)
            engine = self.engine
            if engine is not None and engine is not dead:
                return engine
            await self._changed.wait()

    async def wait_lost(self) -> str:
        """Wait until the model is given up; returns why."""
        while self._loss is None:
            await self._changed.wait()
        return self._loss

    async def _run(self, *, task_status: TaskStatus[None]) -> None:
        death = await self._live(task_status.started)
        while (pause_s := self._policy.pause_after_death(anyio.current_time())) is not None:
            fields = {"model_id": self.model_id, "reason": death, "restart_in_s": pause_s}
            logger.error("engine died, starting it again", extra=fields)
            self.restarts += 1
            death = await self._live_after(pause_s)
        most, minutes = self._policy.most_deaths, self._policy.window_s / 60
        self._lose(f"its engine died {most} times within {minutes:g} minutes, the last time so: {death}")

    async def _live_after(self, pause_s: float) -> str:
        """The life of the next engine, as soon as the host can start one; returns how it ended."""
        while True:
            await anyio.sleep(pause_s)
            try:
                return await self._live(self._log_recovery)
            except LoadFailed as error:
                self.last_death = cause_chain(error)
                return self.last_death
            except SourceUnavailable as error:
                pause_s = self._policy.pause_after_no_start()
                fields = {"model_id": self.model_id, "reason": cause_chain(error), "restart_in_s": pause_s}
                logger.warning("engine cannot be started now, trying again", extra=fields)

    async def _live(self, on_ready: Callable[[], None]) -> str:
        """The life of one engine; returns how it ended."""
        async with self._start() as engine:
            await engine.wait_ready()
            engine.on_death = self._note_death
            self._engine = self._latest = engine
            self._wake()
            on_ready()
            self.last_death = (await engine.wait_dead()).reason
            return self.last_death

    def _note_death(self, death: Death) -> None:
        self.on_death(death)

    def _log_recovery(self) -> None:
        logger.info("engine recovered", extra={"model_id": self.model_id, "restarts": self.restarts})

    def _lose(self, reason: str) -> None:
        if self._loss is None:
            self._loss = reason
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
