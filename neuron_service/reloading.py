"""Reads the configuration again while the service runs: all of it comes into force, or nothing does.

Owns the configuration that is in force. Does not know what uses the configuration: `prepare` does.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import anyio
from msgspec import UNSET, UnsetType

from neuron_lib.config import Config
from neuron_lib.errors import ConfigError, cause_chain
from neuron_lib.registry.startup import ActivationTracker
from neuron_lib.types import ModelSpec, Reload, public_id
from neuron_service.reload import plan_reload
from neuron_service.settings import Settings
from neuron_service.systemd import Notifier, report_ready

__all__ = ("Prepare", "Reloading")

logger = logging.getLogger(__name__)

_READING_LIMIT_S: Final = 30.0
"""How long the files may take. A named pipe, or a file system that is not there any more, would take for ever."""

Prepare: TypeAlias = Callable[[Settings, Config, Config], Awaitable[Callable[[], None]]]
"""Makes what is needed to go from one configuration to another, and changes nothing. The function that it returns
brings the other one into force, and cannot fail.
"""


class Reloading:
    """The configuration in force, and the reloads of it. One per process, on the event loop."""

    def __init__(
        self,
        config: Config,
        *,
        reread: Callable[[], Settings],
        prepare: Prepare,
        tell: Callable[[Reload], None] = lambda _reload: None,
        reading_limit_s: float = _READING_LIMIT_S,
    ) -> None:
        """`reread` reads everything again. It blocks, and raises `ConfigError`. A reload for which it takes longer than
        `reading_limit_s` is refused. `tell` is called with the outcome of each reload.
        """
        self.at_start: Final = config
        self._config = config
        self._reread = reread
        self._prepare = prepare
        self._tell = tell
        self._reading_limit_s = reading_limit_s
        self._requested = anyio.Event()
        self._count = 0
        self._at = 0
        self._error: str | None = None
        self._needs_restart: tuple[str, ...] = ()
        self._added: list[ModelSpec] = []
        self._has_added = anyio.Event()
        self._tracker = ActivationTracker()

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._config

    def request(self) -> None:
        """Read the configuration again soon. Requests that come during a reload are one further reload."""
        self._requested.set()

    def report(self) -> Reload | UnsetType:
        """The outcome of the last reload; UNSET before the first one has ended."""
        if not self._count:
            return UNSET
        loads = self._tracker.snapshot()
        under_way = [loads.in_progress] if loads.in_progress else []
        return Reload(
            count=self._count,
            at=self._at,
            error=self._error,
            needs_restart=self._needs_restart,
            pending=(*under_way, *loads.pending, *(public_id(spec.model_id) for spec in self._added)),
            failed=loads.failed,
        )

    async def run(self, notifier: Notifier, status_line: Callable[[], str]) -> None:
        """Reload as often as it is requested, and tell systemd. Ends by cancellation."""
        while True:
            await self._requested.wait()
            self._requested = anyio.Event()
            notifier.send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
            await self.reload()
            if (outcome := self.report()) is not UNSET:
                self._tell(outcome)
            await report_ready(notifier, status_line)

    async def reload(self) -> None:
        """Read the configuration again, and bring it into force if it has no fault. Does not raise for a fault."""
        try:
            settings = await self._read()
            plan = plan_reload(self._config, settings.config)
            bring_into_force = await self._prepare(settings, self._config, plan.config)
        except Exception as error:
            # The message of a ConfigError says everything, as at a start.
            self._note(str(error) if isinstance(error, ConfigError) else cause_chain(error))
            bug = None if isinstance(error, ConfigError) else error
            logger.log(logging.ERROR, "reload refused, everything stays as it was: %s", self._error, exc_info=bug)
            return
        bring_into_force()
        self._note(None)
        self._config, self._needs_restart = plan.config, plan.needs_restart
        logger.info("configuration read again")
        if plan.needs_restart:
            logger.warning("configuration keys that only a restart changes: %s", ", ".join(plan.needs_restart))
        if plan.added:
            self._added += plan.added
            self._has_added.set()

    async def _read(self) -> Settings:
        """Read everything in a thread, which is left to itself if it takes too long."""
        with anyio.move_on_after(self._reading_limit_s):
            return await anyio.to_thread.run_sync(self._reread, abandon_on_cancel=True)
        raise ConfigError(f"the files of the configuration could not be read within {self._reading_limit_s:g} s")

    def _note(self, error: str | None) -> None:
        self._count += 1
        self._at, self._error = int(time.time()), error

    async def next_added(self) -> tuple[tuple[ModelSpec, ...], ActivationTracker]:
        """Wait for default models that a reload has added. Returns them, and the tracker to be told of their loads."""
        await self._has_added.wait()
        self._has_added = anyio.Event()
        specs, self._added = tuple(self._added), []
        self._tracker = ActivationTracker(specs)
        return specs, self._tracker
