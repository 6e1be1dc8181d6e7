"""What a server says about its models: OpenAI's list, and a neuron's own one. Pure, and believes little."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from neuron_lib.shown import clip, one_word
from neuron_lib.types import ModelLimit
from neuron_lib.upstream.api import APIS, OTHER, UpstreamApi
from neuron_lib.upstream.facts import UpstreamFacts

__all__ = ("Listed", "facts_of_neuron", "find", "has_model", "names_of")

_MOST_TOKENS: Final = 1 << 24
_MOST_NAMES: Final = 8
_MOST_CAPABILITIES: Final = 16
_LONGEST_WORD: Final = 64
_OWNERS: Final = {
    "neuron": "neuron",
    "llamacpp": "llama-server",
    "vllm": "vllm",
    "sglang": "sglang",
    **dict.fromkeys(("openai", "openai-internal", "system"), "openai"),
}
"""What servers say in `owned_by`, by the API that they have then."""


class Listed(Struct):
    """One model of the list. The other values are read with care: a strange one must not spoil the list.

    `max_model_len` is the context in tokens, at a neuron, vLLM and SGLang, and `meta` has that of llama.cpp's server.
    """

    id: str
    created: Any = None
    owned_by: Any = None
    max_model_len: Any = None
    meta: Any = None

    @property
    def api(self) -> UpstreamApi:
        """What the server seems to be."""
        return APIS[_OWNERS.get(self.owned_by, OTHER.name)] if isinstance(self.owned_by, str) else OTHER

    @property
    def context(self) -> int | None:
        """Tokens of prompt and reply together, None where the server does not say it."""
        meta = self.meta if isinstance(self.meta, dict) else {}
        told = self.max_model_len or meta.get("n_ctx")
        if not isinstance(told, int) or isinstance(told, bool):
            return None
        return told if 1 < told <= _MOST_TOKENS else None

    def is_other_load(self, last: "Listed") -> bool:
        """Whether the model was loaded again since it was listed as `last`, or perhaps with another context.

        A neuron gives a model that is not resident no context, and a new time in each answer.
        """
        if self.context is None:
            return last.context is not None
        return (self.context, self.created) != (last.context, last.created)


class _List(Struct):
    data: list[Listed]


class _Limit(Struct):
    context: int
    output: int
    input: int | None = None


class _Neuron(Struct):
    """A model as a neuron lists it in `GET /models`."""

    id: str
    capabilities: tuple[str, ...] = ()
    limit: _Limit | None = None
    tool_call: bool = False
    tool_format: str | None = None
    reasoning: bool = False


_list: Final = msgspec.json.Decoder(_List | list[Listed])
_neuron: Final = msgspec.json.Decoder(list[_Neuron])


def find(body: bytes, model: str) -> Listed | None:
    """The entry of `model` in an answer to `GET /v1/models`. None if it is not there.

    Raises `ValueError` for a body that is no such list. Some servers leave the object around the list out.
    """
    return next((each for each in _read(body) if each.id == model), None)


def has_model(body: bytes, model: str) -> bool:
    """Whether the body is a list that has `model`. Never raises."""
    try:
        return find(body, model) is not None
    except ValueError:
        return False


def names_of(body: bytes) -> str:
    """The first models of the list, for people."""
    names = [clip(each.id) for each in _read(body)]
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
        capabilities=tuple(one_word(each)[:_LONGEST_WORD] for each in found.capabilities[:_MOST_CAPABILITIES]),
        limit=_limit(found.limit) or facts.limit,
        tool_call=found.tool_call,
        tool_format=None if found.tool_format is None else one_word(found.tool_format)[:_LONGEST_WORD],
        reasoning=found.reasoning,
    )


def _limit(told: _Limit | None) -> ModelLimit | None:
    if told is None or not all(1 <= each <= _MOST_TOKENS for each in (told.context, told.output, told.input or 1)):
        return None
    return ModelLimit(context=told.context, output=told.output, input=told.input)


def _read(body: bytes) -> Sequence[Listed]:
    try:
        told = _list.decode(body)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return told.data if isinstance(told, _List) else told
