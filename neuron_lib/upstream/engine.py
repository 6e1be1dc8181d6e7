"""What a backend says about the server of a model: what the model is, and how the server lives and dies.

The protocols here are those of `neuron_lib.supervision`, with a server in the place of an engine.
"""

from collections.abc import Callable
from typing import Any, Protocol

from msgspec import Struct

from neuron_lib.types import ModelLimit
from neuron_lib.upstream.api import OPENAI, UpstreamApi
from neuron_lib.upstream.client import UpstreamClient

__all__ = ("UpstreamDeath", "UpstreamEngine", "UpstreamFacts", "UpstreamSupervisor")


class UpstreamFacts(Struct, frozen=True, kw_only=True):
    """What a model is, as its server says or the configuration. `api` is what the server understands.

    No `capabilities` mean that nobody knows them: then every task is passed on. The other fields are those of
    `ModelInfo`.
    """

    api: UpstreamApi = OPENAI
    capabilities: tuple[str, ...] = ()
    limit: ModelLimit | None = None
    tool_call: bool = False
    tool_format: str | None = None
    reasoning: bool = False


class UpstreamDeath(Protocol):
    """How a server ended, and the numbers of the requests that it may have died of."""

    @property
    def reason(self) -> str: ...
    @property
    def requests(self) -> frozenset[int]: ...


class UpstreamEngine(Protocol):
    """One life of a server: from the moment at which it serves until it is lost."""

    @property
    def client(self) -> UpstreamClient:
        """The way to it. Closed when the server is given up."""
        ...

    @property
    def death(self) -> UpstreamDeath | None:
        """How it ended, None while it lives."""
        ...

    async def wait_dead(self) -> UpstreamDeath:
        """Wait until it has ended."""
        ...

    def doubt(self) -> None:
        """A request could not reach it, or broke off: look at once whether it still serves. Never blocks."""
        ...


class UpstreamSupervisor(Protocol):
    """The server of a model now, or the wait for its next life: see `neuron_lib.supervision.EngineSupervisor`."""

    model_id: str
    restarts: int
    last_death: str | None
    on_death: Callable[[Any], object]

    @property
    def facts(self) -> UpstreamFacts: ...
    @property
    def engine(self) -> UpstreamEngine | None: ...
    @property
    def loss(self) -> str | None: ...
    def require_engine(self) -> UpstreamEngine: ...
    async def successor(self, dead: Any) -> UpstreamEngine: ...
    async def wait_lost(self) -> str: ...
