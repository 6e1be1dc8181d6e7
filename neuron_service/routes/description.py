"""`/openapi.json`: what the service answers to. Made for the first request."""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import anyio
import msgspec
from litestar import MediaType, get
from litestar.handlers import HTTPRouteHandler

from neuron_lib import __version__
from neuron_service.openapi import Operation, described_by, document

__all__ = ("description_route",)

_OWN = Operation(
    method="get", path="/openapi.json", summary="This description, in OpenAPI 3.2", answers={200: dict[str, Any]}
)


def description_route(operations: Callable[[], Iterable[Operation]]) -> HTTPRouteHandler:
    """The route that shows `operations`, and itself."""

    @cache
    def encoded() -> bytes:
        return msgspec.json.encode(document((*operations(), _OWN), version=__version__))

    @get(_OWN.path, media_type=MediaType.JSON, opt=described_by(_OWN))
    async def describe() -> bytes:
        return await anyio.to_thread.run_sync(encoded)

    return describe
