"""The server of a model as an engine: what a backend says about how it lives and dies, and what its model is."""

from abc import abstractmethod
from typing import Final

from msgspec import Struct

from neuron_lib.supervision.death import Death
from neuron_lib.supervision.engine import Engine
from neuron_lib.types import ModelLimit
from neuron_lib.upstream.api import OPENAI, UpstreamApi
from neuron_lib.upstream.client import UpstreamClient

__all__ = ("UpstreamEngine", "UpstreamFacts")


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


class UpstreamEngine(Engine):
    """One life of a server: from the moment at which it serves until it is lost. Whoever made `client` closes it."""

    def __init__(self, *, model_id: str, client: UpstreamClient) -> None:
        """`client` is the way to the server."""
        super().__init__(model_id=model_id)
        self.client: Final = client

    @property
    @abstractmethod
    def facts(self) -> UpstreamFacts:
        """What its model is. Known once it is ready."""

    @property
    def at_work(self) -> frozenset[int]:
        return frozenset(self.client.at_work)

    def doubt(self) -> None:
        """A request could not reach it, or broke off: look at once whether it still serves. Must not wait."""

    def tell_of(self, death: Death) -> None:  # noqa: ARG002 - whoever waits reads it from `death`
        self.client.abandon()
