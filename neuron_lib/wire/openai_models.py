"""The body of OpenAI's `GET /v1/models`: the resident models, for clients that know no other list."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from neuron_lib.types import ModelInfo

__all__ = ("OpenAiModelList", "encode_model_list")


class _Model(Struct):
    id: str
    created: int
    max_model_len: int | UnsetType
    object: Literal["model"] = "model"
    owned_by: Literal["neuron"] = "neuron"


class OpenAiModelList(Struct):
    """All resident models."""

    data: list[_Model]
    object: Literal["list"] = "list"


def encode_model_list(
    models: Sequence[ModelInfo], *, created: int, loaded: Mapping[str, int] = MappingProxyType({})
) -> bytes:
    """The list as JSON.

    `loaded` has the time of each model's load, by id. `created` is used for models without such a time. Both are in
    seconds of Unix time. `max_model_len` is the context in tokens and is left out if it is not known.
    """
    return msgspec.json.encode(
        OpenAiModelList(
            [
                _Model(
                    id=model.id,
                    created=loaded.get(model.id, created),
                    max_model_len=UNSET if model.limit is None else model.limit.context,
                )
                for model in models
            ]
        )
    )
