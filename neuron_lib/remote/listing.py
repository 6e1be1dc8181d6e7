"""What a server says about its models: OpenAI's list, and a neuron's own one. Pure, and believes little."""

from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from neuron_lib.shown import clip
from neuron_lib.types import ModelLimit
from neuron_lib.upstream.api import APIS, OPENAI, UpstreamApi
from neuron_lib.upstream.facts import UpstreamFacts

__all__ = ("Listed", "facts_of_neuron", "find", "names_of")

_MOST_TOKENS: Final = 1 << 24
_MOST_NAMES: Final = 8
_OWNERS: Final = {"neuron": "neuron", "llamacpp": "llama-server", "vllm": "vllm", "sglang": "sglang"}
"""What servers say in `owned_by`, by the API that they have then."""


class _Meta(Struct):
    n_ctx: int | None = None


class Listed(Struct):
    """One model of the list. `max_model_len` is the context in tokens, at a neuron, vLLM and SGLang."""

    id: str
    owned_by: str | None = None
    max_model_len: int | None = None
    meta: _Meta | None = None

    @property
    def api(self) -> UpstreamApi:
        """What the server seems to be."""
        return APIS.get(_OWNERS.get(self.owned_by or "", ""), OPENAI)

    @property
    def context(self) -> int | None:
        """Tokens of prompt and reply together, None where the server does not say it."""
        told = self.max_model_len or (None if self.meta is None else self.meta.n_ctx)
        return told if told is not None and 1 < told <= _MOST_TOKENS else None


class _List(Struct):
    data: list[Listed]


class _Neuron(Struct):
    """A model as a neuron lists it in `GET /models`."""

    id: str
    capabilities: tuple[str, ...] = ()
    limit: ModelLimit | None = None
    tool_call: bool = False
    tool_format: str | None = None
    reasoning: bool = False


_list: Final = msgspec.json.Decoder(_List)
_neuron: Final = msgspec.json.Decoder(list[_Neuron])


def find(body: bytes, model: str) -> Listed | None:
    """The entry of `model` in an answer to `GET /v1/models`. None if it is not there.

    Raises `ValueError` for a body that is no such list.
    """
    return next((each for each in _read(body).data if each.id == model), None)


def names_of(body: bytes) -> str:
    """The first models of the list, for people."""
    names = [clip(each.id) for each in _read(body).data]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return (", ".join(names[:_MOST_NAMES]) or "none") + more


def facts_of_neuron(body: bytes, model: str, facts: UpstreamFacts) -> UpstreamFacts:
    """`facts` with what a neuron says about a resident model in `GET /models`. As they are, if it says nothing."""
    try:
        found = next((each for each in _neuron.decode(body) if each.id == model), None)
    except (ValueError, RecursionError):
        return facts
    if found is None:
        return facts
    return replace(
        facts,
        capabilities=found.capabilities,
        limit=found.limit or facts.limit,
        tool_call=found.tool_call,
        tool_format=None if found.tool_format is None else clip(found.tool_format),
        reasoning=found.reasoning,
    )


def _read(body: bytes) -> _List:
    try:
        return _list.decode(body)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
