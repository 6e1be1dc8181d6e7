"""OpenAI's `POST /v1/images/generations`. No model here makes images, so every request is refused by what is wrong."""

from typing import Any, Final, Never

from litestar import Request, post

from neuron_lib.errors import WrongModality
from neuron_lib.wire.openai_images import ImageRequest, decode_image_request
from neuron_service.dialects import IMAGE_PATHS
from neuron_service.exchange import exchange_of
from neuron_service.host_dependency import HostDependency
from neuron_service.openapi import Operation, described_by

__all__ = ("generate_images",)


_OPERATIONS: Final = [
    Operation(method="post", path=path, summary="Images; every request is refused", request=ImageRequest)
    for path in IMAGE_PATHS
]


@post([*IMAGE_PATHS], status_code=200, opt=described_by(*_OPERATIONS))
async def generate_images(request: Request[Any, Any, Any], host: HostDependency) -> Never:
    """Refuse a wrong body, then a model that is not resident, and at last the model."""
    body = await request.body()
    await host.turn_to_decode(body)
    wanted = decode_image_request(body, headers=request.headers)
    host.require_harness()
    exchange_of(request.scope).model_id = wanted.model
    info = host.info(wanted.model)
    raise WrongModality(info.id, info.capabilities, task="make images", wants="image")
