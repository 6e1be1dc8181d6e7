"""OpenAI's `POST /v1/images/generations`. No model here makes images, so every request is refused by what is wrong."""

from typing import Any, Never

from litestar import Request, post

from neuron_lib.errors import WrongModality
from neuron_lib.wire.openai_images import decode_image_request
from neuron_service.host_dependency import HostDependency

__all__ = ("generate_images",)


@post(["/v1/images/generations", "/images/generations"], status_code=200)
async def generate_images(request: Request[Any, Any, Any], host: HostDependency) -> Never:
    """Refuse a wrong body, then a model that is not resident, and at last the model."""
    body = await request.body()
    await host.turn_to_decode(body)
    wanted = decode_image_request(body, headers=request.headers)
    host.require_harness()
    info = host.info(wanted.model)
    raise WrongModality(info.id, info.capabilities, task="make images", wants="image")
