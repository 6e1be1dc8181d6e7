"""What a backend knows of the model of a server. Pure."""

from msgspec import Struct

from neuron_lib.types import ModelLimit
from neuron_lib.upstream.api import OPENAI, UpstreamApi

__all__ = ("UpstreamFacts",)


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
