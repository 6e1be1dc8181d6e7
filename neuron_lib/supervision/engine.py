"""The end of an engine, as its owner and its supervisor see it: once, and with a reason."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

import anyio

from neuron_lib.supervision.death import Death

__all__ = ("Engine",)


class Engine(ABC):
    """One engine, from its start to its death."""

    def __init__(self, *, model_id: str) -> None:
        self.model_id: Final = model_id
        self.death: Death | None = None
        """Set once, when the engine has ended."""
        self.on_death: Callable[[Death], object] = lambda _death: None
        """Called with the death of an engine that was not unloaded, before any request in it hears of it."""
        self._dead = anyio.Event()

    @property
    @abstractmethod
    def at_work(self) -> frozenset[int]:
        """The numbers of the requests that it works on."""

    @abstractmethod
    async def wait_ready(self) -> object:
        """Wait until it serves. Raises `LoadFailed`, or `SourceUnavailable` if another try may help."""

    @abstractmethod
    def tell_of(self, death: Death, /) -> None:
        """Tell all who wait for the engine that it has ended. Called once, when `death` is set. Must not wait."""

    async def wait_dead(self) -> Death:
        """Wait until the engine ends; returns how."""
        await self._dead.wait()
        assert self.death is not None  # set before the event
        return self.death

    def die(self, reason: str) -> None:
        """The engine has ended by itself. Tells `on_death` first, then all who wait. The first end counts."""
        if self.death is None:
            death = Death(reason, self.at_work)
            self.on_death(death)
            self._bury(death)

    def bury(self, reason: str) -> None:
        """The engine is ended on purpose, which is nobody's fault. Tells all who wait. The first end counts."""
        if self.death is None:
            self._bury(Death(reason, frozenset()))

    def _bury(self, death: Death) -> None:
        self.death = death
        self._dead.set()
        self.tell_of(death)
