"""The server of a model as an engine: what a backend says about how it lives and dies."""

from abc import abstractmethod
from typing import Final

from neuron_lib.supervision.death import Death
from neuron_lib.supervision.engine import Engine
from neuron_lib.upstream.client import UpstreamClient
from neuron_lib.upstream.facts import UpstreamFacts

__all__ = ("UpstreamEngine",)


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

    async def wake(self) -> None:
        """A request is about to be sent: see that the server can answer it. May wait."""

    def doubt(self) -> None:
        """A request could not reach it, or broke off: look at once whether it still serves. Must not wait."""

    def tell_of(self, death: Death) -> None:  # noqa: ARG002 - whoever waits reads it from `death`
        self.client.abandon()
