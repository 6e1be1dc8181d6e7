"""The bodies of OpenAI's `GET /v1/models` and `GET /v1/models/{id}`: the models that can be asked, or one of them."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from neuron_lib.types import ModelInfo, ModelLimit

__all__ = ("OpenAiModel", "OpenAiModelList", "encode_absent_model", "encode_model", "encode_model_list")


class OpenAiModel(Struct, kw_only=True):
    """One model. `max_model_len` is the context in tokens. What is not known is left out."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["neuron"] = "neuron"
    max_model_len: int | UnsetType = UNSET
    limit: ModelLimit | UnsetType = UNSET
    capabilities: tuple[str, ...] | UnsetType = UNSET


class OpenAiModelList(Struct):
    """All models that can be asked."""

    data: list[OpenAiModel]
    object: Literal["list"] = "list"


def encode_model_list(
    models: Sequence[ModelInfo],
    *,
    created: int,
    loaded: Mapping[str, int] = MappingProxyType({}),
    on_demand: Sequence[str] = (),
) -> bytes:
    """The list as JSON: the resident models, and then those that a request would load, by their ids.

    `loaded` has the time of each model's load, by id. `created` is used for models without such a time. Both are in
    seconds of Unix time.
    """
    return msgspec.json.encode(
        OpenAiModelList(
            [
                *(_model(model, created=loaded.get(model.id, created)) for model in models),
                *(OpenAiModel(id=model_id, created=created) for model_id in on_demand),
            ]
        )
    )


def encode_model(model: ModelInfo, *, created: int) -> bytes:
    """One model as JSON. `created` is the time of its load, in seconds of Unix time."""
    return msgspec.json.encode(_model(model, created=created))


def encode_absent_model(model_id: str, *, created: int) -> bytes:
    """A model that is not resident, and that a request would load."""
    return msgspec.json.encode(OpenAiModel(id=model_id, created=created))


def _model(model: ModelInfo, *, created: int) -> OpenAiModel:
    return OpenAiModel(
        id=model.id,
        created=created,
        max_model_len=UNSET if model.limit is None else model.limit.context,
        limit=UNSET if model.limit is None else model.limit,
        capabilities=model.capabilities or UNSET,
    )
