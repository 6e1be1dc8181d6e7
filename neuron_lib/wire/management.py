"""The bodies of `POST /models/load` and `POST /models/unload`."""

from typing import Final

import msgspec

from neuron_lib.errors import InvalidRequest
from neuron_lib.types import ModelSpec
from neuron_lib.wire.bodies import MalformedJson, UnsupportedMediaType, decode_body

__all__ = ("MissingModelId", "UnloadBody", "decode_load_request", "decode_unload_request")


class MissingModelId(InvalidRequest):
    """An unload without `model_id` as a string. It is the only wrong shape with a flat error body."""


class UnloadBody(msgspec.Struct):
    """The body of `POST /models/unload`."""

    model_id: str


_load_decoder: Final = msgspec.json.Decoder(ModelSpec)
_unload_decoder: Final = msgspec.json.Decoder(UnloadBody)


def decode_load_request(body: bytes, *, content_type: str | None) -> ModelSpec:
    """What to load (`docs/reference/wire-contract.md#load-a-model`). Raises the errors of `decode_body`."""
    return decode_body(_load_decoder, body, content_type=content_type)


def decode_unload_request(body: bytes, *, content_type: str | None) -> str:
    """The id of the model to unload. Raises `MissingModelId`, `MalformedJson` or `UnsupportedMediaType`."""
    try:
        return decode_body(_unload_decoder, body, content_type=content_type).model_id
    except (MalformedJson, UnsupportedMediaType):
        raise
    except InvalidRequest as exc:
        raise MissingModelId("model_id is missing or not a string", param="model_id") from exc
